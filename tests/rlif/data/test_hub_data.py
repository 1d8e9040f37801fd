"""Datasets of the Hugging Face hub, read over HTTP from a server that speaks its protocol on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

CARD = """---
configs:
- config_name: main
  data_files: [{split: train, path: main/train.jsonl}, {split: test, path: main/test.jsonl}]
- config_name: other
  data_files: [{split: dev, path: other/dev.jsonl}]
---
"""


class Hub(BaseHTTPRequestHandler):
    """Serves one dataset, me/sums."""

    files: ClassVar[dict[str, bytes]] = {
        "README.md": CARD.encode(),
        "main/train.jsonl": b'{"question": "1+1", "solution": "so\\n#### 2"}\n' * 3,
        "main/test.jsonl": b'{"question": "2+2", "solution": "#### 4"}\n',
        "other/dev.jsonl": b'{"question": "3+3", "solution": "#### 6"}\n',
    }
    commit = "1" * 40
    base = "/api/datasets/me/sums"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        _, _, place = path.partition("/tree/" if "/tree/" in path else "/resolve/")
        name = place.partition("/")[2]  # after the revision
        if path in (self.base, f"{self.base}/revision/main", f"{self.base}/revision/{self.commit}"):
            self.reply({"id": "me/sums", "sha": self.commit, "siblings": [{"rfilename": name} for name in self.files]})
        elif path.startswith(f"{self.base}/tree/"):
            listed = {key: data for key, data in self.files.items() if key.startswith(f"{name}/")}
            self.reply([{"type": "file", "path": key, "size": len(data), "oid": key} for key, data in listed.items()])
        elif path.startswith("/datasets/me/sums/resolve/") and name in self.files:
            self.reply(self.files[name])
        else:
            self.reply({}, status=404, error="EntryNotFound" if "/me/sums" in path else "RepoNotFound")

    do_HEAD = do_GET  # noqa: N815

    def reply(self, content: object, *, status: int = 200, error: str = "") -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Content-Length": len(body), "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
        headers |= {"X-Repo-Commit": self.commit, "Content-Type": "application/json"}
        self.send_response(status)
        for name, value in (headers | ({"X-Error-Code": error} if error else {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a process for which that server is the hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
    server.shutdown()
    thread.join()
    server.server_close()


def read(environment: dict[str, str], *requests: dict[str, str]) -> list[object]:
    """What `read_prompts` makes of each request, contents with answers or an error, in a process of its own."""
    code = (
        "import json, sys\n"
        "from rlif.data.prompts import read_prompts\n"
        "from rlif.errors import UserError\n"
        "for request in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        prompts = read_prompts(prompt_column='question', answer_column='solution', **request)\n"
        "        print(json.dumps([[prompt.content, prompt.answer] for prompt in prompts]))\n"
        "    except UserError as error:\n"
        "        print(json.dumps(str(error)))\n"
    )
    command = [sys.executable, "-c", code, json.dumps(requests)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_configuration_and_splits_of_a_hub_dataset_are_chosen_and_then_read_without_network(
    environment: dict[str, str],
) -> None:
    requests = [
        {"data": "me/sums", "data_config": "main"},
        {"data": "me/sums", "data_config": "main", "argument": "eval_data"},
        {"data": "me/sums", "data_config": "main", "split": "train[:1]"},
        {"data": "me/sums", "data_config": "other"},
    ]
    expected = [[["1+1", "2"]] * 3, [["2+2", "4"]], [["1+1", "2"]], [["3+3", "6"]]]
    assert read(environment, *requests) == expected
    assert read(environment | {"HF_HUB_OFFLINE": "1"}, *requests) == expected


def test_what_a_hub_dataset_has_not_is_one_error_that_says_what_it_has(environment: dict[str, str]) -> None:
    errors = read(
        environment,
        {"data": "me/sums", "data_config": "main", "split": "dev"},
        {"data": "me/sums", "data_config": "min"},
        {"data": "me/sums"},
        {"data": "me/products"},
    )
    for error, expected in zip(
        errors,
        (
            "data: cannot load the hub dataset 'me/sums': ValueError: Unknown split \"dev\". Should be one of",
            "data: cannot load the hub dataset 'me/sums': ValueError: BuilderConfig 'min' not found. Available:",
            "data: cannot load the hub dataset 'me/sums': ValueError: Config name is missing. Please pick one among",
            "data: got 'me/products', which is not a file here, and the Hugging Face hub has no such public dataset",
        ),
        strict=True,
    ):
        assert str(error).startswith(expected)
        assert "\n" not in str(error)
