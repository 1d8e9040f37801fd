"""Length instructions are kept and broken as they should be, learned as the loss says, and reported as they are."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rlif.data.prompts import Prompt
from rlif.errors import UserError
from rlif.files.jsonl import Row, write_rows
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.models.reward_model import load_reward_model
from rlif.scoring import scorer as scorer_module
from rlif.scoring.scorer import Scorer
from rlif.scoring.sequences import as_rollout, sequence_logprobs
from rlif.self_feedback.command import run as run_self_feedback
from rlif.self_feedback.length_prompts import (
    DIRECTIONS,
    ConditionedPair,
    Instruction,
    balanced_directions,
    balanced_pairs,
    check_early,
    condition,
    draw_instruction,
    length_of,
    longer_chosen,
    read_conditioned,
    with_instruction,
)
from rlif.self_feedback.length_report import held_out, measure_length
from rlif.self_feedback.objectives import DPO, BradleyTerry, margins
from rlif.self_feedback.options import (
    LengthOptions,
    SelfFeedbackConfig,
    TrainOptions,
)
from rlif.self_feedback.train import train_model
from tiny_models import EOS, make_tokenizer

TEMPLATES = ("{prompt}#{n}\n", "{prompt}+{n}\n")
LENGTH = LengthOptions(length_conditioned=True, length_unit="tokens", length_instructions=TEMPLATES)
# Three prompts; in each pair the sixth symbol is preferred, and the chosen completion is longer in half of them.
PAIRS = [
    ConditionedPair(
        prompt := [3 + a, 13, 3 + b, 14],
        [3 + a, 5, EOS],
        [3 + b, 6, 6, 6, EOS] if b % 2 else [3 + b, EOS],
        0.1 * (a % 4),
        [*prompt, 15, 3 + a, 17],
        [*prompt, 15, 3 + b, 3 + a, 17],
    )
    for a in range(6)
    for b in range(2)
]


def make_config(**changes: Any) -> SelfFeedbackConfig:
    options = TrainOptions(learning_rate=3e-3, num_train_epochs=6, pairs_per_step=4, **changes)
    config = SelfFeedbackConfig(stage="train", model="m", data="d", device="cpu", train=options, length=LENGTH)
    return config.resolved()


# ---------------------------------------------------------------- instructions


@pytest.mark.parametrize("kept", [True, False])
def test_an_instruction_is_kept_or_broken_as_it_should_be_by_a_tenth_to_a_half_of_the_length(kept: bool) -> None:
    draw = random.Random(0)
    for length in range(80):
        for direction in DIRECTIONS:
            found = draw_instruction(length, direction, kept=kept, draw=draw)
            assert found.kept_by(length) is kept
            assert found.n >= 1
            assert 0.1 * length <= abs(found.n - length) <= max(1, 0.5 * length + 1)
            if length > 1:
                assert found.direction == direction


def test_half_of_the_instructions_say_less_so_that_neither_short_nor_long_is_what_is_asked_for() -> None:
    rows = [{"prompt": "1+1=", "chosen": "2" * length, "rejected": "3" * length} for length in range(2, 42)]
    ids = [([0] * len(row["chosen"]), [0] * len(row["rejected"])) for row in rows]
    made = condition(rows, ids, LENGTH, seed=0, file="f")
    assert made == condition(rows, ids, LENGTH, seed=0, file="f") != condition(rows, ids, LENGTH, seed=1, file="f")
    for column, kept in (("broken_prompt", False), ("kept_prompt", True)):
        found = [Instruction("less" if row[column][4] == "#" else "more", int(row[column][5:])) for row in made]
        assert sorted(each.direction for each in found) == ["less"] * 20 + ["more"] * 20
        below = [each.n < len(row["chosen"]) for each, row in zip(found, rows, strict=True)]
        # Asked for n or less alone, all that is broken would be too long, and all that is kept short enough.
        assert sum(below) == 20
        assert [each.kept_by(len(row["chosen"])) for each, row in zip(found, rows, strict=True)] == [kept] * 40


def test_lengths_are_words_characters_or_tokens() -> None:
    assert [length_of("two  words\n", [1, 2, EOS], unit) for unit in ("words", "characters", "tokens")] == [2, 11, 3]


def test_an_instruction_goes_into_a_text_or_into_the_last_message_whatever_stands_in_it() -> None:
    instruction = Instruction("more", 7)
    assert with_instruction("{n} or {prompt}?", instruction, TEMPLATES) == "{n} or {prompt}?+7\n"
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert with_instruction(messages, instruction, TEMPLATES) == [messages[0], {"role": "user", "content": "u+7\n"}]
    assert messages[1]["content"] == "u"


def test_directions_are_balanced_and_in_a_random_order() -> None:
    found = balanced_directions(41, random.Random(0))
    assert abs(found.count("less") - found.count("more")) == 1
    assert found[:6] != ["less", "more"] * 3


def test_balanced_pairs_have_a_longer_chosen_completion_as_often_as_a_shorter_one() -> None:
    lengths = [(5, 3)] * 7 + [(3, 5)] * 2 + [(4, 4)] * 3
    places = balanced_pairs(lengths, seed=0)
    kept = [lengths[place] for place in places]
    assert (kept.count((5, 3)), kept.count((3, 5)), kept.count((4, 4))) == (2, 2, 3)
    assert places == sorted(set(places))
    assert longer_chosen(lengths) == 7 / 9
    assert longer_chosen(kept) == 0.5
    assert longer_chosen([(4, 4)]) is None
    assert balanced_pairs([(5, 3)], seed=0) == []


# ---------------------------------------------------------------- loss


def test_log_z_cancels_between_completions_of_a_prompt_and_not_between_prompts() -> None:
    """A policy that maximises a reward less beta times its divergence: what its log-ratios say of the reward."""
    generator, beta = torch.Generator().manual_seed(0), 0.7
    reward = torch.randn(2, 5, generator=generator, dtype=torch.float64)  # two prompts, five completions
    start = torch.randn(2, 5, generator=generator, dtype=torch.float64).log_softmax(dim=1)
    log_z = (start + reward / beta).logsumexp(dim=1)
    best = start + reward / beta - log_z[:, None]
    implicit = beta * (best - start)
    # Nothing that is one policy step away is better: the optimum is one.
    for step in torch.randn(20, 2, 5, generator=generator, dtype=torch.float64):
        other = (best + 0.01 * step).log_softmax(dim=1)
        value = [(each.exp() * (reward - beta * (each - start))).sum() for each in (best, other)]
        assert value[0] > value[1]
    within = implicit[:, :1] - implicit
    torch.testing.assert_close(within, reward[:, :1] - reward)
    between = implicit[0] - implicit[1]
    off = between - (reward[0] - reward[1])
    torch.testing.assert_close(off, (beta * (log_z[1] - log_z[0])).expand(5))
    assert off.abs().min() > 0.1


@pytest.mark.parametrize("lam", [0.0, 0.5])
def test_the_loss_is_the_pairs_own_and_lam_times_those_of_both_comparisons_between_prompts(
    lam: float, language_model: LanguageModel
) -> None:
    scorer = Scorer(language_model.model, None)
    policy = [
        sequence_logprobs(scorer, language_model, *map(list, zip(*pair.sequences(), strict=True))) for pair in PAIRS
    ]
    logprobs = torch.stack(policy, dim=1).detach()  # (4, n)
    reference = logprobs + torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(0))
    options = make_config(beta=0.3, label_smoothing=0.1, use_margin=True).train
    result = DPO(scorer, language_model, PAIRS, reference.unbind(), options, lam)(range(len(PAIRS)))
    own, other, broken, kept = 0.3 * (logprobs - reference)
    score = own - other - margins(PAIRS, own.device)
    expected = -0.9 * F.logsigmoid(score) - 0.1 * F.logsigmoid(-score)
    # No margin, and no label is smoothed: whether an instruction was kept is known.
    between = -F.logsigmoid(own - broken) - F.logsigmoid(kept - other)
    # Batches of other shapes.
    torch.testing.assert_close(result.loss, expected + lam * between, atol=1e-5, rtol=1e-5)
    told_apart = ((own > broken).float() + (kept > other).float()) / 2
    torch.testing.assert_close(result.metrics["length/accuracy"], told_apart)
    torch.testing.assert_close(result.metrics["length/loss"], between / 2, atol=1e-5, rtol=1e-5)


def test_the_reward_models_loss_is_the_same_of_its_rewards(model_dir: Path) -> None:
    torch.manual_seed(0)
    model = load_reward_model(
        str(model_dir), device=torch.device("cpu"), dtype=torch.float32, pad_token_id=0, new_head=True
    )
    options = make_config(objective="reward_model").train
    result = BradleyTerry(model, PAIRS, options, 0.5)(range(len(PAIRS)))
    rewards = [model.rewards(*map(list, zip(*pair.sequences(), strict=True))) for pair in PAIRS]
    own, other, broken, kept = torch.stack(rewards, dim=1)
    expected = -F.logsigmoid(own - other - margins(PAIRS, own.device))
    expected = expected - 0.5 * (F.logsigmoid(own - broken) + F.logsigmoid(kept - other))
    # Batches of other shapes.
    torch.testing.assert_close(result.loss, expected, atol=1e-5, rtol=1e-5)


def test_a_pairs_own_sequences_share_their_prompt_and_packed_rows_have_the_loss_of_padded_ones(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer_module, "ATTENTION_COST", 0)  # so small a model would not share
    sequences = PAIRS[1].sequences()
    rollout = as_rollout(language_model, *map(list, zip(*sequences, strict=True)))
    distinct = {tuple(prompt) for prompt, _ in sequences}
    assert len(distinct) == 3
    # The last token of a completion is not fed.
    fed = sum(map(len, distinct)) + sum(len(completion) - 1 for _, completion in sequences)
    assert rollout.packed.num_tokens == fed
    reference, options = tuple(torch.zeros(4, len(PAIRS))), make_config().train
    losses = []
    for share_prompts in (0, 1):
        dpo = DPO(
            Scorer(language_model.model, None, share_prompts=share_prompts), language_model, PAIRS, reference, options
        )
        losses.append(dpo(range(len(PAIRS))).loss)
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)  # sums in another order


@pytest.mark.parametrize("objective", ["dpo", "reward_model"])
def test_training_learns_to_tell_kept_from_broken_and_says_so_by_the_step(
    objective: str, model_dir: Path, tmp_path: Path
) -> None:
    def run(config: SelfFeedbackConfig) -> list[Row]:
        start = load_language_model(str(model_dir), device="cpu", dtype="float32")
        return train_model(config, start, str(model_dir), PAIRS, tmp_path)

    config = make_config(objective=objective)
    rows = run(config)
    first, last = rows[:3], rows[-3:]
    assert np.mean([row["length/loss"] for row in last]) < np.mean([row["length/loss"] for row in first])
    assert np.mean([row["length/accuracy"] for row in last]) > 0.9
    with pytest.raises(UserError, match=r"lam: got 0\.5, but .*metrics.jsonl was made with 1\.0"):
        run(replace(config, length=replace(LENGTH, lam=0.5)))


# ---------------------------------------------------------------- report


def held_out_row(lengths: list[int], right: list[bool]) -> Row:
    completions = [
        {"text": "", "ids": [number] * length, "answer": "7" if each else "8", "confidence": {"c": float(length)}}
        for number, (length, each) in enumerate(zip(lengths, right, strict=True))
    ]
    return {"index": 0, "prompt": "3+4=", "prompt_ids": [4], "answer": "7", "completions": completions}


def test_a_reward_of_length_and_one_of_quality_are_told_from_each_other() -> None:
    rows = [
        held_out_row([10, 20, 40, 40], [True, False, True, False]),
        held_out_row([30, 30, 10, 50], [False, True, False, True]),
        held_out_row([5, 9, 7, 8], [True] * 4),
    ]
    samples = held_out(rows, unit="tokens", confidence="c", seed=0)
    kept = np.array([0 if direction.direction == "less" else 1 for direction, _ in samples.instructions], float)

    def report(score: np.ndarray) -> Any:
        rewards = np.stack([score, kept.reshape(3, 4), np.full((3, 4), 0.5)], axis=-1)
        return measure_length(samples, rewards, objective="dpo", unit="tokens")

    found = report(samples.lengths)
    assert found.pairs == {"all": 8, "matched": 2, "shorter": 2, "longer": 4}
    for name in ("confidence", "reward"):
        score = found.scores[name]
        assert score.correlation.value == pytest.approx(1)
        assert score.correlation_equally_right.value == pytest.approx(1)
        accuracy = {kind: each.value for kind, each in score.accuracy.items()}
        assert accuracy == {"all": 0.625, "matched": 0.5, "shorter": 0.0, "longer": 1.0}
    # Kept was rewarded above broken where it is "more", below where it is "less".
    assert (found.length_accuracy["less"].value, found.length_accuracy["more"].value) == (0.0, 1.0)
    assert found.length_accuracy["both"].value == kept.mean()
    quality = report(samples.right)
    assert quality.scores["reward"].correlation.value == pytest.approx(quality.right.value)
    assert quality.right.value == pytest.approx(np.corrcoef(
        (samples.right - samples.right.mean(1, keepdims=True)).ravel(),
        (samples.lengths - samples.lengths.mean(1, keepdims=True)).ravel(),
    )[0, 1])  # fmt: skip
    assert np.isnan(quality.scores["reward"].correlation_equally_right.value)  # it does not vary there
    assert {kind: each.value for kind, each in quality.scores["reward"].accuracy.items()} == dict.fromkeys(
        found.pairs, 1
    )
    assert json.loads(json.dumps(quality.to_json()))["scores"]["reward"]["correlation_equally_right"]["value"] is None


# ---------------------------------------------------------------- command

MakeConfig = Callable[..., SelfFeedbackConfig]


@pytest.fixture
def of_lengths(of_command: MakeConfig) -> MakeConfig:
    return partial(of_command, length=LENGTH)


def test_the_stages_write_instructed_prompts_learn_them_and_report_on_length(
    of_lengths: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_self_feedback(of_lengths())
    printed = capsys.readouterr().out
    assert "each comes with an instruction that the chosen one breaks" in printed
    assert "correlation with length" in printed
    out = tmp_path / "out"
    pairs = [json.loads(line) for line in (out / "preferences.jsonl").open()]
    for pair in pairs:
        for column, ids, kept in (("broken_prompt", "chosen_ids", False), ("kept_prompt", "rejected_ids", True)):
            mark, n = pair[column].removeprefix(pair["prompt"])[0], pair[column].removeprefix(pair["prompt"])[1:]
            assert Instruction("less" if mark == "#" else "more", int(n)).kept_by(len(pair[ids])) is kept
    assert json.loads((out / "ranking.json").read_text())["kept"] == len(pairs)
    assert "length/accuracy" in json.loads((out / "train-dpo" / "metrics.jsonl").read_text().splitlines()[0])
    report = json.loads((out / "length.json").read_text())
    assert (report["unit"], report["num_prompts"], report["num_generations"]) == ("tokens", 3, 2)
    before = {path: path.read_bytes() for path in sorted(out.rglob("*.jsonl"))}
    run_self_feedback(of_lengths())
    run_self_feedback(replace(of_lengths(), stage="length", length=LengthOptions()))  # what rank was told is known
    assert {path: path.read_bytes() for path in sorted(out.rglob("*.jsonl"))} == before
    assert json.loads((out / "length.json").read_text()) == report

    # A unit that is told brings its own instructions, which this model cannot read.
    with pytest.raises(UserError, match="length_instructions: the tokenizer cannot write prompt 1 of eval_data"):
        run_self_feedback(of_lengths(stage="length", length=LengthOptions(length_unit="characters")))

    # The same file serves the plain pair, and a reward model.
    reward_model = TrainOptions(objective="reward_model", learning_rate=1e-3, num_train_epochs=1)
    run_self_feedback(of_lengths(stage="train", train=reward_model, length=LengthOptions()))
    assert "length/loss" not in (out / "train-reward_model" / "metrics.jsonl").read_text()
    run_self_feedback(of_lengths(stage="length", train=reward_model, length=LengthOptions()))
    assert json.loads((out / "length.json").read_text())["objective"] == "reward_model"


def test_preferences_from_elsewhere_get_their_instructions_when_they_are_learned(
    language_model: LanguageModel, tmp_path: Path
) -> None:
    path = tmp_path / "preferences.jsonl"
    write_rows(path, [{"prompt": "1+1=", "chosen": "2" * n, "rejected": "31"} for n in range(1, 5)])
    config = make_config()
    pairs = read_conditioned(path, language_model, config)
    assert pairs == read_conditioned(path, language_model, config)
    tokenizer = language_model.tokenizer
    for pair in pairs:
        assert isinstance(pair, ConditionedPair)
        for ids, completion, kept in (
            (pair.broken_prompt_ids, pair.chosen_ids, False),
            (pair.kept_prompt_ids, pair.rejected_ids, True),
        ):
            text = tokenizer.decode(ids)
            assert text.startswith("1+1=")
            assert Instruction("less" if text[4] == "#" else "more", int(text[5:])).kept_by(len(completion)) is kept
    write_rows(
        path,
        condition(
            [{"prompt": "1+1=", "chosen": "2", "rejected": "3"}], [([5, EOS], [6, EOS])], LENGTH, seed=3, file=""
        ),
    )
    row = json.loads(path.read_text())
    (pair,) = read_conditioned(path, language_model, config)
    assert tokenizer.decode(pair.broken_prompt_ids) == row["broken_prompt"]  # what a file has is taken as it is


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lam": -0.1}, "lam: got -0.1, expected a finite number of at least 0"),
        ({"length_instructions": ("{prompt} short", "{prompt} {n}")}, "length_instructions: got '{prompt} short'"),
        ({"length_instructions": ("{n}", "{n}+")}, "length_instructions: got '{n}', expected text with {prompt} and"),
        ({"length_instructions": ("{prompt}{n}",) * 2}, "length_instructions: got '{prompt}{n}' twice"),
        ({"length_unit": "pages"}, "length_unit: got 'pages', expected one of words, characters, tokens"),
    ],
)  # fmt: skip
def test_bad_options_are_named(changes: dict[str, Any], message: str) -> None:
    config = SelfFeedbackConfig(stage="train", model="m", data="d", length=replace(LENGTH, **changes))
    with pytest.raises(UserError) as error:
        config.resolved()
    assert str(error.value).startswith(message)


def test_an_objective_without_pairs_is_named() -> None:
    with pytest.raises(UserError, match="length_conditioned: got the objective nft, expected dpo or reward_model"):
        make_config(objective="nft")


def test_instructions_that_a_model_cannot_read_are_an_error_before_anything_is_sampled(
    of_lengths: MakeConfig, tmp_path: Path
) -> None:
    words = LengthOptions(length_conditioned=True)
    with pytest.raises(UserError, match="length_instructions: the tokenizer cannot write the longest prompt, with an"):
        run_self_feedback(of_lengths(length=words))
    assert not (tmp_path / "out" / "samples.jsonl").exists()
    with pytest.raises(UserError, match=r"length_instructions: the longest prompt.* positions"):
        run_self_feedback(
            of_lengths(length=replace(LENGTH, length_instructions=("{prompt}{n}" + "1" * 60, "{prompt}+{n}")))
        )


def test_a_chat_template_that_drops_the_instruction_is_named(language_model: LanguageModel) -> None:
    template = "{% for message in messages %}{{ message['content'][:3] }}{% endfor %}"
    deaf = replace(language_model, tokenizer=make_tokenizer(chat_template=template))
    prompt = Prompt([{"role": "user", "content": "1+1="}])
    with pytest.raises(
        UserError, match=r"length_instructions: the longest prompt.* the same tokens as the prompt itself"
    ):
        check_early(deaf, make_config(), [prompt])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"broken_prompt": 5}, r"the broken_prompt of output_dir: .*, row 1: got '5', expected a prompt"),
        ({"kept_prompt": "1+1=" + "#" * 70}, r"length_instructions: the kept_prompt of .* positions"),
        ({"kept_prompt": "1+1=é"}, "length_instructions: the tokenizer cannot write the kept_prompt"),
        ({"broken_prompt": "1+1="}, "length_instructions: the broken_prompt of .* has the same tokens"),
        ({"prompt": ["1+1="]}, r"row 1: got .*, expected a prompt: text, or messages"),
        ({"prompt": "1+2="}, r"row 1: prompt_ids are not the tokens of the prompt"),
    ],
)
def test_a_row_whose_instructions_cannot_be_used_is_named(
    changes: Row, message: str, language_model: LanguageModel, tmp_path: Path
) -> None:
    row = {
        "prompt": "1+1=", "chosen": "2", "rejected": "3", "prompt_ids": [4, 13, 4, 14], "chosen_ids": [5],
        "rejected_ids": [6], "broken_prompt": "1+1=+9\n", "kept_prompt": "1+1=#9\n",
    }  # fmt: skip
    path = tmp_path / "preferences.jsonl"
    write_rows(path, [row])
    assert len(read_conditioned(path, language_model, make_config())) == 1
    write_rows(path, [row | changes])
    with pytest.raises(UserError, match=message):
        read_conditioned(path, language_model, make_config())
