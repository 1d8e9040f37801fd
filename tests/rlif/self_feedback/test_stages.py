"""Sampling and ranking keep what they have computed, and say what is wrong with their input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlif.data.prompts import Prompt
from rlif.errors import UserError
from rlif.files.jsonl import Row, StageFile, read_rows
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt
from rlif.rollouts.sample import sample
from rlif.self_feedback.options import RankOptions, SampleOptions, SelfFeedbackConfig
from rlif.self_feedback.rank import rank, read_preferences, write_preferences
from rlif.self_feedback.sample import sample_traces
from tiny_models import EOS, files_of_at_most

QUESTIONS = [Prompt(f"{a}+{b}=", str(a + b)) for a in (1, 20) for b in (3, 4, 50)]
OPTIONS = SampleOptions(num_generations=3, sampling="branch", max_completion_length=6, answer_span="trace")


def make_config(**changes: Any) -> SelfFeedbackConfig:
    return SelfFeedbackConfig(model="m", data="d", device="cpu", sample=replace(OPTIONS, **changes)).resolved()


def branches(language_model: LanguageModel, count: int, temperature: float, length: int = 5) -> list[list[int]]:
    prompt = EncodedPrompt("", None, language_model.tokenizer("12+3=")["input_ids"])
    rollout = sample(
        language_model, [prompt, prompt], num_generations=count, max_completion_length=length, temperature=temperature,
        seeds=[(0, 0), (0, 1)], branch=True,
    )  # fmt: skip
    rows = zip(rollout.completion_ids.tolist(), rollout.lengths()[1], strict=True)
    return [ids[:length] for ids, length in rows]


def test_branches_begin_with_the_most_likely_tokens_and_go_on_greedily(language_model: LanguageModel) -> None:
    ids = language_model.tokenizer("12+3=")["input_ids"]
    found = branches(language_model, 4, 0.0)
    with torch.no_grad():
        logits = language_model.model(input_ids=torch.tensor([ids])).logits[0, -1]
    expected = [token for token in logits.argsort(descending=True).tolist() if token != EOS][:4]
    assert [row[0] for row in found] == expected * 2  # of both prompts
    for row in found[:4]:
        begun = torch.tensor([[*ids, row[0]]])
        rest = language_model.model.generate(begun, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert row[1:] == rest[0, begun.shape[1] :].tolist()


def test_branches_go_on_by_sampling_where_that_is_asked_for(language_model: LanguageModel) -> None:
    found = branches(language_model, 4, 1.5)
    assert [row[0] for row in found[:4]] == [row[0] for row in found[4:]]  # the same prompt
    assert [row[1:] for row in found[:4]] != [row[1:] for row in found[4:]]  # another seed


def test_every_token_but_the_end_can_begin_a_branch_and_no_more(language_model: LanguageModel) -> None:
    vocab_size = language_model.model.config.vocab_size
    found = branches(language_model, vocab_size - 1, 0.0, length=1)
    assert {row[0] for row in found} == set(range(vocab_size)) - {EOS}
    with pytest.raises(
        UserError, match=f"num_generations: got {vocab_size} branches, expected at most {vocab_size - 1}"
    ):
        branches(language_model, vocab_size, 0.0)


def test_an_interrupted_sampling_goes_on_at_its_question_and_ends_with_the_same_bytes(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    config = make_config(prompts_per_batch=2, sampling="independent", temperature=1.0)
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    sample_traces(config, language_model, QUESTIONS, whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6
    # Killed while the fourth line was being written.
    part.write_bytes(b"".join(lines[:3]) + lines[3][:50])
    part.with_suffix(".settings.json").write_text(whole.with_suffix(".settings.json").read_text())
    sample_traces(config, language_model, QUESTIONS, part)
    assert part.read_bytes() == whole.read_bytes()


def test_samples_do_not_depend_on_how_questions_are_divided_over_batches(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    texts = []
    for size in (1, 4, 6):
        config = make_config(prompts_per_batch=size, sampling="independent", temperature=1.0)
        rows = sample_traces(config, language_model, QUESTIONS, tmp_path / f"{size}.jsonl")
        texts.append([trace["ids"] for row in rows for trace in row["traces"]])
    assert texts[0] == texts[1] == texts[2]


def test_samples_made_with_other_settings_are_refused_and_stay_as_they_are(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    path = tmp_path / "samples.jsonl"
    sample_traces(make_config(), language_model, QUESTIONS, path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"max_completion_length: got 5, but .* was made with 6; expected the same"):
        sample_traces(make_config(max_completion_length=5), language_model, QUESTIONS, path)
    with pytest.raises(UserError, match=r"data: got '.*', but .* was made with"):
        sample_traces(make_config(), language_model, QUESTIONS[:-1] + QUESTIONS[:1], path)
    assert path.read_bytes() == before


def test_after_an_error_before_the_first_sample_the_mended_command_runs(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    path = tmp_path / "samples.jsonl"
    with pytest.raises(UserError, match="num_generations: got 99 branches"):
        sample_traces(make_config(num_generations=99), language_model, QUESTIONS, path)
    assert len(sample_traces(make_config(), language_model, QUESTIONS, path)) == len(QUESTIONS)


def test_rows_are_forgotten_all_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = StageFile(path, {})
    file.append({"step": step, "text": "x" * 100} for step in range(9))
    before = path.read_bytes()
    with files_of_at_most(300), pytest.raises(UserError, match=r"output_dir: cannot write to .*metrics.jsonl"):
        file.keep(8)
    assert path.read_bytes() == before


def trace(ids: list[int], confidence: float, answer: str | None = "7", finished: bool = True) -> Row:
    return {
        "text": "".join(map(str, ids)),
        "ids": ids,
        "finished": finished,
        "span": None if answer is None else [0, len(ids)],
        "answer": answer,
        "confidence": {"probability_disparity": confidence, "self_certainty": 10 * confidence},
    }


def question(traces: list[Row], answer: str | None = "7", prompt: object = "3+4=") -> Row:
    return {"question": 0, "prompt": prompt, "prompt_ids": [4, 5], "answer": answer, "traces": traces}


RANK = RankOptions(confidence="probability_disparity")
FOUR = [trace([3], 0.5, "8"), trace([4], 0.95), trace([5], 0.95), trace([6], 0.2, None), trace([4], 0.95)]


def test_every_pair_with_a_sure_winner_is_made_the_clearest_first_and_equal_ones_are_none() -> None:
    pairs, ranking = rank([question(FOUR)], RANK)
    assert [(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs] == [
        ([4], [6]),
        ([5], [6]),
        ([4], [3]),
        ([5], [3]),
    ]
    assert [pair["gap"] for pair in pairs] == pytest.approx([0.75, 0.75, 0.45, 0.45])
    # Right against unanswered and against wrong: four pairs, and the right one is preferred in all.
    assert (ranking.pairs, ranking.judged, ranking.agreeing, ranking.answered) == (4, 4, 4, 4)
    assert ranking.pair_accuracy == 1.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_pairs_per_prompt": 1}, [([4], [6])]),
        ({"min_gap": 0.5}, [([4], [6]), ([5], [6])]),
        ({"threshold": 0.5, "min_gap": 0.25, "max_pairs_per_prompt": 9}, 5),
        ({"confidence": "self_certainty", "threshold": 9.4}, 4),
    ],
)
def test_threshold_gap_cap_and_score_decide_which_pairs_there_are(changes: dict[str, Any], expected: object) -> None:
    pairs, _ = rank([question(FOUR)], replace(RANK, **changes))
    found = [(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs]
    assert (found if isinstance(expected, list) else len(found)) == expected


def test_one_text_cut_into_tokens_in_two_ways_is_no_preference() -> None:
    pairs, _ = rank([question([trace([12, 3], 0.99), trace([1, 23], 0.95), trace([4], 0.1)])], RANK)
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("123", "4"), ("123", "4")]


def test_only_the_most_confident_trace_is_chosen_where_that_is_asked_for() -> None:
    traces = [trace([3], 0.95), trace([4], 0.99), trace([5], 0.92)]
    pairs, _ = rank([question(traces)], replace(RANK, best_only=True))
    assert [(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs] == [([4], [5]), ([4], [3])]


def test_a_score_that_was_not_sampled_is_named() -> None:
    with pytest.raises(UserError, match=r"confidence: p_true is not among the samples' scores, probability_disparity"):
        rank([question(FOUR)], replace(RANK, confidence="p_true"))


def test_the_models_verdict_on_a_trace_is_its_odds_of_the_two_words(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    config = make_config(sampling="independent", temperature=1.0, judge="# ", verdicts=("1", "0"))
    rows = sample_traces(config, language_model, QUESTIONS[:2], tmp_path / "samples.jsonl")
    token = language_model.tokenizer.convert_tokens_to_ids
    for row in rows:
        for each in row["traces"]:
            said = [*row["prompt_ids"], *(i for i in each["ids"] if i > 2), token("#"), token(" ")]  # 0 to 2: special
            with torch.no_grad():
                p = language_model.model(input_ids=torch.tensor([said])).logits[0, -1].double().softmax(-1)
            expected = p[token("1")] / (p[token("1")] + p[token("0")])
            assert each["confidence"]["p_true"] == pytest.approx(expected.item(), abs=1e-5)  # padding, in float32
    config = make_config(sampling="independent", temperature=1.0, judge="# ", verdicts=("11", "1"))
    with pytest.raises(UserError, match="verdicts: got '11' and '1', expected words that begin with different tokens"):
        sample_traces(config, language_model, QUESTIONS, tmp_path / "other.jsonl")


def test_an_elicited_answer_is_text_of_the_trace(language_model: LanguageModel, tmp_path: Path) -> None:
    config = make_config(answer_span="elicited", elicitation="=")
    rows = sample_traces(config, language_model, QUESTIONS, tmp_path / "samples.jsonl")
    found = [each for row in rows for each in row["traces"] if each["span"]]
    assert found
    for each in found:
        ids = each["ids"][slice(*each["span"])]
        assert each["answer"] == language_model.tokenizer.decode(ids, skip_special_tokens=True).strip() != ""


def test_a_trace_without_an_answer_is_never_chosen_however_low_the_threshold() -> None:
    with pytest.raises(UserError, match="threshold: no pair"):
        rank([question([trace([3], 0.0, None), trace([4], -0.1)])], replace(RANK, threshold=-1.0))


def test_pair_accuracy_counts_pairs_of_a_right_and_a_wrong_answer_with_a_gold_one_only() -> None:
    rows = [
        question([trace([3], 0.99, "8"), trace([4], 0.5)]),  # the wrong one is surer
        question([trace([3], 0.99), trace([4], 0.5, "8")]),
        question([trace([3], 0.99), trace([4], 0.5)]),  # both right
        question([trace([3], 0.99), trace([4], 0.5, "8")], answer=None),
    ]
    _, ranking = rank(rows, RANK)
    assert (ranking.pairs, ranking.judged, ranking.agreeing) == (4, 2, 1)
    assert ranking.pair_accuracy == 0.5


def test_no_pair_above_the_threshold_says_what_there_was_and_what_to_change() -> None:
    with pytest.raises(UserError) as caught:
        rank([question(FOUR)], replace(RANK, threshold=0.99))
    message = str(caught.value)
    assert message.startswith("threshold: no pair has a chosen probability_disparity of at least 0.99")
    assert "1 questions with 5 chains of thought, 4 with an answer" in message
    assert "from 0.200 to 0.950, median 0.950" in message
    assert "expected a lower threshold" in message


def test_no_answer_in_any_trace_says_where_to_look() -> None:
    with pytest.raises(UserError, match=r"answer_span: none of the 2 chains of thought of 1 questions has an answer"):
        rank([question([trace([3], 0.0, None), trace([4], 0.0, None)])], RANK)


def test_preferences_written_are_the_pairs_read(language_model: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "preferences.jsonl"
    pairs, _ = rank([question(FOUR)], RANK)
    write_preferences(path, pairs)
    read = read_preferences(path, language_model)
    assert [(each.prompt_ids, each.chosen_ids, each.rejected_ids) for each in read] == [
        ([4, 5], pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs
    ]
    assert [each.gap for each in read] == [pair["gap"] for pair in pairs]


def test_a_conversation_is_exported_as_messages() -> None:
    messages = [{"role": "user", "content": "3+4="}]
    pairs, _ = rank([question(FOUR, prompt=messages)], RANK)
    assert pairs[0]["prompt"] == messages
    assert pairs[0]["chosen"] == [{"role": "assistant", "content": "4"}]
    assert pairs[0]["rejected"] == [{"role": "assistant", "content": "6"}]


def test_the_export_trains_trls_dpo_trainer_on_the_tokens_that_were_sampled(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed: nothing to export to")
    from datasets import load_dataset

    tokenizer = language_model.tokenizer
    prompt, traces = "12+3=", []
    for index, text in enumerate(("15", "1 + 2", "#### 15\n")):
        ids = [*tokenizer(text)["input_ids"], EOS]
        traces.append(trace(ids, 0.9 + index / 100) | {"text": tokenizer.decode(ids, skip_special_tokens=True)})
    row = question(traces, prompt=prompt) | {"prompt_ids": tokenizer(prompt)["input_ids"]}
    pairs, _ = rank([row], RANK)
    write_preferences(tmp_path / "preferences.jsonl", pairs)
    trainer = trl.DPOTrainer(
        model=language_model.model,
        args=trl.DPOConfig(output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, report_to="none"),
        train_dataset=load_dataset("json", data_files=str(tmp_path / "preferences.jsonl"), split="train"),
        processing_class=language_model.tokenizer,
    )
    ours = read_preferences(tmp_path / "preferences.jsonl", language_model)
    assert len(ours) == 3
    for theirs, pair in zip(trainer.train_dataset, ours, strict=True):
        assert theirs["prompt_ids"] == pair.prompt_ids
        assert theirs["chosen_ids"] == pair.chosen_ids
        assert theirs["rejected_ids"] == pair.rejected_ids


@pytest.mark.parametrize("as_messages", [False, True])
def test_preferences_of_others_are_tokenized_and_end_with_the_end_token(
    as_messages: bool, language_model: LanguageModel, write_jsonl: Callable[..., Path]
) -> None:
    def content(text: str) -> object:
        return [{"role": "assistant", "content": text}] if as_messages else text

    path = write_jsonl({"prompt": "1+1=", "chosen": content("2"), "rejected": content("11")})
    (pair,) = read_preferences(path, language_model)
    token = language_model.tokenizer.convert_tokens_to_ids
    assert pair.prompt_ids == [token(character) for character in "1+1="]
    assert pair.chosen_ids == [token("2"), EOS]
    assert pair.rejected_ids == [token("1"), token("1"), EOS]


def test_of_several_ends_preferences_of_others_get_the_tokenizers(
    language_model: LanguageModel, write_jsonl: Callable[..., Path]
) -> None:
    several = replace(language_model, eos_token_ids=(5, EOS))
    (pair,) = read_preferences(write_jsonl({"prompt": "1+1=", "chosen": "2", "rejected": "3"}), several)
    assert pair.chosen_ids[-1] == pair.rejected_ids[-1] == EOS


GOOD = {"prompt": "1+1=", "chosen": "2", "rejected": "3"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "score": 1}, "row 1: got unknown columns score, expected prompt, chosen, rejected and perhaps"),
        ({"prompt": "1+1=", "chosen": "2"}, "row 1: got no rejected, expected prompt, chosen, rejected"),
        ({**GOOD, "chosen": 2}, "row 1: got chosen '2', expected a text or one message"),
        ({**GOOD, "prompt": ""}, "row 1: got prompt '', expected a text or messages"),
        ({**GOOD, "gap": "wide"}, "row 1: got gap 'wide', expected a number"),
        ({**GOOD, "prompt_ids": [3], "chosen_ids": [], "rejected_ids": [3]}, "row 1: got chosen_ids"),
        ({**GOOD, "prompt_ids": [3], "chosen_ids": [99], "rejected_ids": [3]}, "has a token outside the model's"),
        (
            {**GOOD, "rejected": "3" * 60},
            "row 1: prompt and completion have 65 tokens, expected at most the model's 64 positions",
        ),
    ],
)
def test_a_bad_preference_is_named_with_its_file_and_row(
    row: dict[str, object], message: str, language_model: LanguageModel, write_jsonl: Callable[..., Path]
) -> None:
    with pytest.raises(UserError) as caught:
        read_preferences(write_jsonl(row), language_model, argument="preferences")
    assert str(caught.value).startswith("preferences: ")
    assert message in str(caught.value)


def test_a_damaged_file_of_an_earlier_stage_names_its_line(language_model: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "preferences.jsonl"
    path.write_text(json.dumps(GOOD) + "\n{broken\n")
    with pytest.raises(UserError, match=r"output_dir: .*preferences.jsonl, line 2: not valid JSON"):
        read_preferences(path, language_model)


def test_a_line_that_was_cut_short_is_left_out_of_a_stages_file_and_refused_in_a_users(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes('{"a": 1}\n{"b": "\u00e9'.encode()[:-1])  # killed while writing, in the middle of a character
    assert read_rows(path, growing=True) == [{"a": 1}]
    with pytest.raises(UserError, match="it is not UTF-8 text"):
        read_rows(path)


def test_rows_of_unknown_settings_are_never_continued(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="which says what made them, is missing"):
        StageFile(path, {"seed": 0})
    assert path.read_text() == '{"a": 1}\n'
