"""What is counted is what the model says, and the page and the table say what was counted."""

import json
import subprocess
import sys

import pytest

from benchmarks import cluster, report
from benchmarks.report import ROOT, scaling

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="what processes send is counted in /proc")


def test_one_gpu_exchanges_nothing_and_more_of_them_no_less():
    rows = [row for row in cluster.paper()["rows"] if row["model"] == "Qwen2.5-7B"]
    assert rows[0]["gpus"] == 1
    assert rows[0]["exchange within nodes"] == rows[0]["exchange between nodes"] == 0
    sent = [row["bytes within nodes"] + row["bytes between nodes"] for row in rows]
    assert sent == sorted(sent)
    # The gradient of a GPU's share, there and back, is what a ring tends to.
    limit = 2 * 7.62e9 * cluster.ITEMSIZE / cluster.GPUS_PER_NODE
    assert 0.99 * limit < rows[-1]["bytes between nodes"] < limit
    assert rows[-1]["tokens per second"] < rows[0]["tokens per second"] * rows[-1]["gpus"]


def test_exponents_are_those_of_powers():
    sizes = [1.0, 2.0, 4.0]
    assert scaling.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    directory = tmp_path_factory.mktemp("scaling")
    command = [sys.executable, "-m", "benchmarks.scaling", "--quick", "--only", "vocabulary", "training", "ops"]
    subprocess.run([*command, "--output", str(directory)], check=True, capture_output=True, cwd=ROOT)
    (path,) = directory.glob("*-scaling.json")
    return json.loads(path.read_text())


@linux_only
def test_what_processes_exchange_is_what_the_model_says(results):
    assert results["missing"] == {}
    (vocabulary,) = results["vocabulary"]
    tokens, n = vocabulary["tokens"], vocabulary["world_size"]
    for op in ("linear_token_stats", "linear_grpo_loss"):
        payloads = [rank[op]["payload"] for rank in vocabulary["ranks"]]
        assert len(payloads) == n == 3
        assert len(payloads[0]["all_gather"]) > 2  # several tiles of tokens
        for payload in payloads:
            assert sum(payload["all_gather"]) == cluster.statistics_payload(tokens)
            assert payload["all_reduce"] == [cluster.hidden_payload(tokens, vocabulary["hidden_size"], itemsize=4)]
    for rank in vocabulary["ranks"]:
        gathered = rank["gathered logits"]
        own = cluster.logits_payload(tokens, vocabulary["vocab_size"], n, itemsize=4)
        assert gathered["payload"]["all_gather"] == [own]
        # A ring's bytes, and what gloo says around them.
        assert 1 <= gathered["sent_bytes"] / cluster.all_gather_bytes(own, n) < 1.05
    ddp, fsdp = results["training"]
    for rank in ddp["ranks"]:
        assert sum(rank["payload"]["all_reduce"]) == 4 * rank["parameters"]
        # Metrics, and what DDP says to itself: a handful of numbers.
        assert sum(sum(sizes) for kind, sizes in rank["payload"].items() if kind != "all_reduce") < 1000
    for rank in fsdp["ranks"]:
        parameters = rank["parameters_in_layers"], rank["parameters_elsewhere"]
        payload = sum(rank["payload"]["all_gather"]), sum(rank["payload"]["all_reduce"])
        assert payload == cluster.sharded_payload(*parameters, fsdp["world_size"], itemsize=4)


@linux_only
def test_the_page_says_whether_counts_and_model_agree_and_what_is_missing(results, tmp_path, capsys):
    assert scaling.exchanges_agree(results) == [True] * 7
    text = scaling.page(results, "file.json")
    assert "says: equal, to the byte" in text
    assert "**not equal**" not in text
    assert "No step was measured." in text
    assert "| 88 | 88 |" in scaling.scaling_table(results)

    # Among the results of a directory, it is drawn with the others.
    (tmp_path / "2-core-cpu-2026-11-23-scaling.json").write_text(json.dumps(results))
    assert report.main(["--results", str(tmp_path)]) == 0
    assert {path.name for path in (tmp_path / "charts").iterdir()} == {"scaling-measured.png", "scaling-paper.png"}
    assert report.main(["--results", str(tmp_path), "--check"]) == 0
    (tmp_path / "SCALING.md").write_text("88 bytes")
    assert report.main(["--results", str(tmp_path), "--check"]) == 1
    assert "SCALING.md: not what" in capsys.readouterr().err

    # The charts too, which say of which results they are.
    (tmp_path / "2-core-cpu-2026-11-23-scaling.json").write_text(json.dumps(results, indent=1))
    report.main(["--results", str(tmp_path)])
    (tmp_path / "2-core-cpu-2026-11-23-scaling.json").write_text(json.dumps(results))
    assert report.main(["--results", str(tmp_path), "--check"]) == 1
    assert "scaling-measured.png, scaling-paper.png: not what" in capsys.readouterr().err

    results["training"][0]["predicted"]["all_reduce"] += 4
    assert "says: **not equal**" in scaling.page(results, "file.json")
