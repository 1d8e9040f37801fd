"""Sampling keeps what it has computed, goes on where it stopped, and finds an answer in the completion."""

from __future__ import annotations

from pathlib import Path

import pytest

from hurt import HOSTILE_VALUES, assert_same
from rlif.errors import UserError
from rlif.files.jsonl import Row, write_rows
from rlif.models.language_model import LanguageModel
from rlif.self_feedback.sample import RENAMED, read_samples, sample_completions
from small_samples import PROMPTS, sampling_config


def test_an_interrupted_sampling_goes_on_at_its_prompt_and_ends_with_the_same_tokens(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    config = sampling_config(prompts_per_batch=2, sampling="independent", temperature=1.0)
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    sample_completions(config, language_model, PROMPTS, whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6
    # Killed while the fourth line was being written.
    part.write_bytes(b"".join(lines[:3]) + lines[3][:50])
    part.with_suffix(".settings.json").write_text(whole.with_suffix(".settings.json").read_text())
    sample_completions(config, language_model, PROMPTS, part)
    assert_same(read_samples(part), read_samples(whole))


def test_samples_do_not_depend_on_how_prompts_are_divided_over_batches(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    texts = []
    for size in (1, 4, 6):
        config = sampling_config(prompts_per_batch=size, sampling="independent", temperature=1.0)
        rows = sample_completions(config, language_model, PROMPTS, tmp_path / f"{size}.jsonl")
        texts.append([completion["ids"] for row in rows for completion in row["completions"]])
    assert texts[0] == texts[1] == texts[2]


def test_samples_of_an_earlier_release_are_read_and_gone_on_with(language_model: LanguageModel, tmp_path: Path) -> None:
    config = sampling_config(prompts_per_batch=2)
    path, settings = tmp_path / "samples.jsonl", tmp_path / "samples.settings.json"
    whole = sample_completions(config, language_model, PROMPTS, path)
    old_names = {today: before for before, today in RENAMED.items()}
    old = [
        {old_names.get(name, name): value for name, value in row.items()} for row in whole[:4]
    ]  # whole batches, since another batch rounds otherwise
    write_rows(path, old)
    settings.write_text(settings.read_text().replace("num_prompts", "num_questions"))
    assert read_samples(path) == whole[:4]
    assert sample_completions(config, language_model, PROMPTS, path) == read_samples(path) == whole


@pytest.mark.parametrize("name", ["prompt", "prompt_ids", "answer", "completions"])
def test_a_row_that_somebody_has_changed_is_one_error(name: str, sampled: Row, tmp_path: Path) -> None:
    rows = [sampled, sampled | {"answer": ["2", "two"]}]
    write_rows(tmp_path / "samples.jsonl", rows)
    assert read_samples(tmp_path / "samples.jsonl") == rows
    for value in HOSTILE_VALUES:
        fits = name == "prompt" or (name == "prompt_ids" and value == []) or (name == "answer" and value in (None, "x"))
        if not fits:
            write_rows(tmp_path / "samples.jsonl", [sampled, sampled | {name: value}])
            with pytest.raises(UserError, match=r"^output_dir: .*samples\.jsonl, row 2: .*; expected what"):
                read_samples(tmp_path / "samples.jsonl")


@pytest.mark.parametrize("name", ["text", "ids", "finished", "span", "answer", "confidence"])
def test_a_completion_that_somebody_has_changed_is_one_error(name: str, sampled: Row, tmp_path: Path) -> None:
    fitting = {"text": ("x",), "ids": (), "finished": (True,), "span": (None,), "answer": (None, "x"), "confidence": ()}
    for value in HOSTILE_VALUES:
        if value not in fitting[name] and (name, value) not in (("ids", []), ("confidence", {})):
            changed = [sampled["completions"][0] | {name: value}]
            write_rows(tmp_path / "samples.jsonl", [sampled | {"completions": changed}])
            with pytest.raises(UserError, match=r"row 1: .*; expected what"):
                read_samples(tmp_path / "samples.jsonl")


@pytest.fixture
def sampled() -> Row:
    """A row as sampling writes it."""
    completion = {"text": "#### 2", "ids": [3, 4], "finished": True, "span": [1, 2], "answer": "2"}
    scores = {"confidence": {"self_certainty": 0.5}}
    return {"index": 0, "prompt": "1+1=", "prompt_ids": [1], "answer": "2", "completions": [completion | scores]}


def test_samples_made_with_other_settings_are_refused_and_stay_as_they_are(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    path = tmp_path / "samples.jsonl"
    sample_completions(sampling_config(), language_model, PROMPTS, path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"max_completion_length: got 5, but .* was made with 6; expected the same"):
        sample_completions(sampling_config(max_completion_length=5), language_model, PROMPTS, path)
    with pytest.raises(UserError, match=r"data: got '.*', but .* was made with"):
        sample_completions(sampling_config(), language_model, PROMPTS[:-1] + PROMPTS[:1], path)
    assert path.read_bytes() == before


def test_after_an_error_before_the_first_sample_the_mended_command_runs(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    path = tmp_path / "samples.jsonl"
    with pytest.raises(UserError, match="num_generations: got 99 branches"):
        sample_completions(sampling_config(num_generations=99), language_model, PROMPTS, path)
    assert len(sample_completions(sampling_config(), language_model, PROMPTS, path)) == len(PROMPTS)


def test_an_elicited_answer_is_text_of_the_completion_if_that_came_to_its_end(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    changes = {"sampling": "independent", "temperature": 2.0, "num_generations": 12}  # warm, so that some end
    config = sampling_config(answer_span="elicited", elicitation="=", **changes)
    rows = sample_completions(config, language_model, PROMPTS, tmp_path / "samples.jsonl")
    found = [each for row in rows for each in row["completions"] if each["span"]]
    assert {each["finished"] for each in found} == {True, False}
    for each in found:
        text = language_model.tokenizer.decode(each["ids"][slice(*each["span"])])
        assert (each["answer"] is None) == (not each["finished"])
        assert each["answer"] in (text, None)
        assert text.strip("0123456789+= ") == ""


@pytest.mark.parametrize("score", ["Infinity", "NaN", "1" + "0" * 400, "true"])
def test_a_confidence_that_is_no_finite_number_is_one_error(score: str, tmp_path: Path) -> None:
    completion = '{"text": "2", "ids": [5], "answer": "2", "finished": true, "span": null, "confidence": {"a": SCORE}}'
    row = f'{{"prompt": "1+1=", "prompt_ids": [4], "answer": "2", "completions": [{completion}]}}'
    path = tmp_path / "samples.jsonl"
    path.write_text(row.replace("SCORE", score) + "\n")
    with pytest.raises(UserError, match=r"^output_dir: .*samples\.jsonl, row 1: .*one that is no finite number"):
        read_samples(path)
