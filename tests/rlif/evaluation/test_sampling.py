"""Completions belong to their prompts alone, and sampling that was stopped goes on to the same completions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from drawn_figures import plain_figures
from fault_server import Server
from hurt import assert_same, wait_until
from rlif.errors import UserError
from rlif.evaluation.command import run as run_eval
from rlif.evaluation.extremes import Extremes
from rlif.evaluation.options import EvalConfig
from rlif.evaluation.sampling import EvalSampling
from rlif.files.jsonl import Row, read_rows
from rlif.rollouts.encode import EncodedPrompt
from rlif.scoring.token_confidence import TokenConfidence

WriteJsonl = Callable[..., Path]


MakeEval = Callable[..., EvalConfig]


def test_completions_do_not_depend_on_how_many_are_sampled_at_a_time(make_eval: MakeEval, tmp_path: Path) -> None:
    run_eval(make_eval())
    run_eval(make_eval(output_dir=tmp_path / "one", max_batch_tokens=1))
    texts = [
        [json.loads(line)["completions"] for line in (tmp_path / name / "completions.jsonl").open(encoding="utf-8")]
        for name in ("out", "one")
    ]
    assert texts[0] == texts[1]


def test_statistics_of_tokens_are_kept_of_the_surest_and_the_least_sure_of_each_kind(
    make_eval: MakeEval, tmp_path: Path
) -> None:
    with plain_figures():
        run_eval(make_eval(answer_style="lenient", max_completion_length=24))  # some end, and with a number
    rows = read_rows(tmp_path / "out" / "completions.jsonl")
    extremes = Extremes("lenient")
    for row in rows:
        kept = row.get("token_confidence", [None] * 4)
        assert [place for place, each in enumerate(kept) if each is not None] == extremes.places(row)
        for place, each in enumerate(kept):
            if each is not None:
                tokens = TokenConfidence.from_json(row["completions"][place], each)
                assert "".join(tokens.texts) == row["completions"][place]
                assert len(tokens.texts) == row["tokens"][place]
                # Three digits of each token are kept.
                mean = sum(tokens.values["self_certainty"]) / len(tokens.texts)
                assert mean == pytest.approx(row["scores"]["self_certainty"][place], rel=0.005)
    assert any(row.get("token_confidence") for row in rows)


def test_an_evaluation_that_was_stopped_resumes_to_the_same_completions(
    make_eval: MakeEval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"max_batch_tokens": 100}  # two prompts at a time
    run_eval(make_eval(output_dir=tmp_path / "whole", **settings))
    rows = EvalSampling.rows

    def stop_at_the_third_batch(self: EvalSampling, start: int, prompts: list[EncodedPrompt]) -> list[Row]:
        if start == 4:
            raise KeyboardInterrupt
        return rows(self, start, prompts)

    with monkeypatch.context() as patch:
        patch.setattr(EvalSampling, "rows", stop_at_the_third_batch)
        with pytest.raises(KeyboardInterrupt, match=r"interrupted: 4 of 6 prompts are in .* --resume goes on"):
            run_eval(make_eval(**settings))
    path = tmp_path / "out" / "completions.jsonl"
    assert len(path.read_text(encoding="utf-8").splitlines()) == 4
    with path.open("a", encoding="utf-8") as file:
        file.write('{"prompt": "20+')  # the machine went down in the middle of a line
    run_eval(make_eval(resume=True, **settings))
    assert_same(read_rows(path), read_rows(tmp_path / "whole" / "completions.jsonl"))
    with pytest.raises(UserError, match=r"output_dir: .*exists, expected a new directory, or --resume"):
        run_eval(make_eval(**settings))


def test_sigterm_ends_an_evaluation_as_ctrl_c_does(
    model_dir: Path, write_jsonl: WriteJsonl, tmp_path: Path, server: Server
) -> None:
    data = write_jsonl(*({"prompt": f"{number}=", "answer": number} for number in range(5000)))
    words = f"eval --model {model_dir} --data {data} --output-dir {tmp_path / 'out'} --max-completion-length 6"
    words += " --max-batch-tokens 100 --device cpu"
    rows = tmp_path / "out" / "completions.jsonl"
    running = server.start(words.split(), tmp_path)
    wait_until(lambda: (rows.exists() and rows.stat().st_size > 0) or not running.process.is_alive())
    running.process.terminate()
    end = running.wait()
    assert end.code == 143, end.errors
    count = rows.read_text().count("\n")
    assert end.errors.splitlines()[-1].startswith(f"rlif: interrupted: {count} of 5000 prompts are in {rows};")
