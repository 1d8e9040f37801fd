"""Pairs are ranked as the options say, written in TRL's format, and read again; bad ones are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlif.errors import UserError
from rlif.files.jsonl import Row, write_rows
from rlif.models.language_model import LanguageModel
from rlif.self_feedback.command import describe_ranking
from rlif.self_feedback.options import RankOptions
from rlif.self_feedback.rank import rank, read_preferences
from tiny_models import EOS


def completion(ids: list[int], confidence: float, answer: str | None = "7", finished: bool = True) -> Row:
    return {
        "text": "".join(map(str, ids)),
        "ids": ids,
        "finished": finished,
        "span": None if answer is None else [0, len(ids)],
        "answer": answer,
        "confidence": {"probability_disparity": confidence, "self_certainty": 10 * confidence},
    }


def row_of(completions: list[Row], answer: str | None = "7", prompt: object = "3+4=") -> Row:
    return {"index": 0, "prompt": prompt, "prompt_ids": [4, 5], "answer": answer, "completions": completions}


RANK = RankOptions(confidence="probability_disparity")


FOUR = [
    completion([3], 0.5, "8"),
    completion([4], 0.95),
    completion([5], 0.95),
    completion([6], 0.2, None),
    completion([4], 0.95),
]


def test_every_pair_with_a_sure_winner_is_made_the_clearest_first_and_equal_ones_are_none() -> None:
    pairs, ranking = rank([row_of(FOUR)], RANK)
    assert [(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs] == [
        ([4], [6]),
        ([5], [6]),
        ([4], [3]),
        ([5], [3]),
    ]
    assert [pair["gap"] for pair in pairs] == pytest.approx([0.75, 0.75, 0.45, 0.45])
    # Right against unanswered and against wrong: four pairs, and the right one is preferred in all.
    assert (ranking.pairs, ranking.unanswered, ranking.judged, ranking.agreeing, ranking.answered) == (4, 2, 4, 4, 4)
    assert "states no answer" not in describe_ranking(ranking)
    mostly = describe_ranking(replace(ranking, unanswered=3))
    assert ", 3 of them against a completion that states no answer: these teach to state one" in mostly
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
    pairs, _ = rank([row_of(FOUR)], replace(RANK, **changes))
    found = [(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs]
    assert (found if isinstance(expected, list) else len(found)) == expected


def test_one_text_cut_into_tokens_in_two_ways_is_no_preference() -> None:
    pairs, _ = rank([row_of([completion([12, 3], 0.99), completion([1, 23], 0.95), completion([4], 0.1)])], RANK)
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("123", "4"), ("123", "4")]


def test_only_the_most_confident_completion_is_chosen_where_that_is_asked_for() -> None:
    completions = [completion([3], 0.95), completion([4], 0.99), completion([5], 0.92)]
    pairs, _ = rank([row_of(completions)], replace(RANK, best_only=True))
    assert [(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs] == [([4], [5]), ([4], [3])]


def test_a_score_that_was_not_sampled_is_named() -> None:
    with pytest.raises(UserError, match=r"confidence: p_true is not among the samples' scores, probability_disparity"):
        rank([row_of(FOUR)], replace(RANK, confidence="p_true"))


def test_a_completion_without_an_answer_is_never_chosen_however_low_the_threshold() -> None:
    with pytest.raises(UserError, match="threshold: no pair"):
        rank([row_of([completion([3], 0.0, None), completion([4], -0.1)])], replace(RANK, threshold=-1.0))


def test_a_completion_that_was_cut_off_is_chosen_only_where_that_is_asked_for() -> None:
    # Confidences as they were seen: three that were cut off, with spans copied from the question, and one with an end.
    cut_off = [
        completion([3 + n], score, None, finished=False) | {"span": [0, 1]}
        for n, score in enumerate((0.955, 0.948, 0.898))
    ]
    completions = [*cut_off, completion([6], 0.579)]
    pairs, ranking = rank([row_of(completions)], replace(RANK, threshold=0.5, best_only=True))
    assert [(pair["chosen_ids"], pair["gap"]) for pair in pairs] == [([6], 0.579)] * 3
    assert (ranking.answered, ranking.pair_accuracy) == (1, 1.0)
    asked_for, _ = rank([row_of(completions)], replace(RANK, threshold=0.5, choose_unfinished=True))
    assert [pair["chosen_ids"] for pair in asked_for] == [[3], [4], [5], [3], [4], [3]]
    with pytest.raises(UserError, match=r"none of the 3 completions .* and 3 were cut off; .* choose_unfinished ranks"):
        rank([row_of(cut_off)], RANK)


def test_only_completions_that_state_an_answer_make_pairs_where_that_is_asked_for() -> None:
    completions = [completion([3], 0.95), completion([4], 0.0, None), completion([5], 0.6), completion([6], 0.92)]
    asked = replace(RANK, answered_only=True)
    pairs, ranking = rank([row_of(completions)], asked)
    assert [(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs] == [([3], [5]), ([6], [5]), ([3], [6])]
    assert (ranking.unanswered, ranking.answered) == (0, 3)
    with pytest.raises(UserError, match=r"gap above 0 against one that states an answer: 1 prompts"):
        rank([row_of(completions[:2])], asked)


def test_a_marked_answer_that_was_cut_off_keeps_its_confidence_and_is_not_chosen() -> None:
    completions = [completion([3], 0.99, finished=False), completion([4], 0.95), completion([5], 0.1, "8")]
    pairs, _ = rank([row_of(completions)], replace(RANK, best_only=True))
    assert [(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs] == [([4], [5])]


def test_pair_accuracy_counts_pairs_of_a_right_and_a_wrong_answer_with_a_gold_one_only() -> None:
    rows = [
        row_of([completion([3], 0.99, "8"), completion([4], 0.5)]),  # the wrong one is surer
        row_of([completion([3], 0.99), completion([4], 0.5, "8")]),
        row_of([completion([3], 0.99), completion([4], 0.5)]),  # both right
        row_of([completion([3], 0.99), completion([4], 0.5, "8")], answer=None),
    ]
    _, ranking = rank(rows, RANK)
    assert (ranking.pairs, ranking.judged, ranking.agreeing) == (4, 2, 1)
    assert ranking.pair_accuracy == 0.5


def test_no_pair_above_the_threshold_says_what_there_was_and_what_to_change() -> None:
    with pytest.raises(UserError) as caught:
        rank([row_of(FOUR)], replace(RANK, threshold=0.99))
    message = str(caught.value)
    assert message.startswith("threshold: no pair has a chosen probability_disparity of at least 0.99")
    assert "1 prompts with 5 completions, 4 with an answer" in message
    assert "from 0.200 to 0.950, median 0.950" in message
    assert "expected a lower threshold" in message


def test_no_answer_in_any_completion_says_where_to_look() -> None:
    with pytest.raises(UserError, match=r"answer_span: none of the 2 completions of 1 prompts has an answer"):
        rank([row_of([completion([3], 0.0, None), completion([4], 0.0, None)])], RANK)


def test_preferences_written_are_the_pairs_read(language_model: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "preferences.jsonl"
    pairs, _ = rank([row_of(FOUR)], RANK)
    write_rows(path, pairs)
    read = read_preferences(path, language_model)
    assert [(each.prompt_ids, each.chosen_ids, each.rejected_ids) for each in read] == [
        ([4, 5], pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs
    ]
    assert [each.gap for each in read] == [pair["gap"] for pair in pairs]


def test_a_conversation_is_exported_as_messages() -> None:
    messages = [{"role": "user", "content": "3+4="}]
    pairs, _ = rank([row_of(FOUR, prompt=messages)], RANK)
    assert pairs[0]["prompt"] == messages
    assert pairs[0]["chosen"] == [{"role": "assistant", "content": "4"}]
    assert pairs[0]["rejected"] == [{"role": "assistant", "content": "6"}]


def test_the_export_trains_trls_dpo_trainer_on_the_tokens_that_were_sampled(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed: nothing to export to")
    from datasets import load_dataset

    tokenizer = language_model.tokenizer
    prompt, completions = "12+3=", []
    for index, text in enumerate(("15", "1 + 2", "#### 15\n")):
        ids = [*tokenizer(text)["input_ids"], EOS]
        completions.append(
            completion(ids, 0.9 + index / 100) | {"text": tokenizer.decode(ids, skip_special_tokens=True)}
        )
    row = row_of(completions, prompt=prompt) | {"prompt_ids": tokenizer(prompt)["input_ids"]}
    pairs, _ = rank([row], RANK)
    write_rows(tmp_path / "preferences.jsonl", pairs)
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
        ({**GOOD, "gap": 10**400}, "row 1: got gap '1000"),
        ({**GOOD, "chosen": "\ud800"}, "row 1: got a `chosen` with half a surrogate pair"),
        ({**GOOD, "prompt": "\ud800"}, "got a `prompt` with half a surrogate pair"),
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
