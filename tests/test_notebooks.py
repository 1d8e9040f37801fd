"""The notebook runs from its first cell to its last, and shows what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pages import ROOT

NOTEBOOK = ROOT / "examples/notebooks/confidence.ipynb"
# What Jupyter does with a cell: it runs it, and shows the value of its last line if that is an expression.
RUN = """
import ast, json, sys

names = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] != "code":
        continue
    tree = ast.parse("".join(cell["source"]))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, cell["id"], "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)
        if hasattr(value, "_repr_html_"):
            print("HTML", json.dumps(value._repr_html_()))
"""


def test_a_notebook_is_kept_without_outputs_and_loads_in_jupyter() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            assert not re.search(
                r"^[!%]", "".join(cell["source"]), re.MULTILINE
            )  # plain Python, which the test can run
    assert "".join(notebook["cells"][1]["source"]).startswith("MODEL = None")


@pytest.mark.slow
def test_the_notebook_shows_a_models_confidence_chooses_by_it_and_sees_a_fall(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(NOTEBOOK)],
        env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=False, timeout=280, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    shown = [json.loads(line.removeprefix("HTML ")) for line in done.stdout.splitlines() if line.startswith("HTML ")]
    assert [re.search(r"by-(\w+)", html)[1] for html in shown] == ["entropy", "self_certainty", "entropy"]
    assert [html.count('<div class="tokens">') for html in shown] == [1, 1, 2]
    assert all(len(set(re.findall(r' title="[^"]*"', html))) > 5 for html in shown)
    entropy, sureness = (re.sub("<[^>]*>", "", html.partition('<div class="tokens">')[2]) for html in shown[:2])
    assert entropy == sureness  # the same completion
    for name in ("average@8", "majority@8", "best-of-8/self_certainty", "pass@8"):
        assert re.search(rf"^{re.escape(name)} +[\d.]+% ± ", done.stdout, re.MULTILINE)
    decisions = re.findall(r"^step +(\d+)  (.*?)\. ", done.stdout, re.MULTILINE)
    assert [int(step) for step, _ in decisions] == [0, 2, 4, 6, 8, 10, 12]
    assert decisions[0][1] == "The start model"
    assert any(title.startswith(("Below the best", "Degenerate")) for _, title in decisions)
    (page,) = tmp_path.glob("rlif-confidence-*/report.html")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
