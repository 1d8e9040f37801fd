"""Solving and verifying in one step: what is asked, what is rewarded, and that both learn from one loss."""

from __future__ import annotations

import json
import math
import string
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlif.data.prompts import read_prompts
from rlif.errors import UserError
from rlif.models.language_model import load_language_model
from rlif.rewards import load_rewards
from rlif.rewards.advantages import group_advantages
from rlif.rollouts.encode import EncodedPrompt, encode_prompts
from rlif.rollouts.rollout import Rollout, with_verifications
from rlif.rollouts.verification import VERIFICATION_SEED, make_verifier
from rlif.training import loop
from rlif.training.distributed import make_accelerator
from rlif.training.learner import Learner, make_learner
from rlif.training.options import TrainConfig
from rlif.training.progress import SilentProgress
from rlif.training.setup import prepare
from rlif.training.step import update
from rlif.training.verification import ask, pairs
from runs import MakeConfig, train
from tiny_models import SIZES, TIMES, make_tokenizer

# In the alphabet of the tests' tokenizer. Answers in prose count, so that a random model states some.
ASKED = {"verify": True, "verify_template": "{prompt}{completion}\n=", "verify_ratings": ("1", "2", "3"),
         "answer_style": "lenient", "reward": ("rise_majority",), "verify_labels": "majority", "verify_share": 1.0,
         "max_completion_length": 12}  # fmt: skip


def make(config: TrainConfig) -> tuple[Learner, list[EncodedPrompt]]:
    """A learner whose optimizer leaves the weights and their gradients as they are, and its prompts."""
    start = load_language_model(config.model, device="cpu", dtype="float32")
    prompts = encode_prompts(start, read_prompts(config.data), config.max_completion_length, answer_style="lenient")
    verifier = make_verifier(start, config, prompts)
    accelerator = make_accelerator("cpu", (), Path("unused"))
    rewards = load_rewards(config.reward, seed=config.seed)
    learner = make_learner(config, accelerator, start, rewards, need_start_model=config.beta > 0, verifier=verifier)
    return replace(learner, optimizer=torch.optim.SGD(learner.models.scorer.parameters(), lr=0.0)), prompts[:3]


def solved(learner: Learner, prompts: list[EncodedPrompt]) -> Rollout:
    """Four completions of each of three prompts: 4, 24 and 51 are right, a majority of the second and third."""
    rollout = loop.draw(learner, prompts, [(0,), (1,), (2,)])
    texts = ["4", "5", "6", "+", "24", "24", "25", "+", "51", "51", "51", "51"]
    rollout.texts[:] = [f"#### {text}" if text.isdigit() else text for text in texts]
    return replace(rollout, answers=["4"] * 4 + ["24"] * 4 + ["51"] * 4)


def asked_in_steps(learner: Learner, prompts: list[EncodedPrompt], rollout: Rollout) -> dict[str, str | None]:
    """What verifications of many steps ask, and their gold answers."""
    asked = [ask(learner, prompts, rollout, step, range(3)) for step in range(1, 40)]
    return {prompt.text: prompt.answer for each in asked for prompt in each.prompts}


def gradients(learner: Learner, rollout: Rollout) -> tuple[dict[str, float], list[Tensor]]:
    metrics = update(learner, rollout, 1, 0.0)
    return metrics, [each.grad.clone() for each in learner.models.scorer.parameters()]


# ---------------------------------------------------------------- what is asked


def test_right_completions_and_others_are_drawn_in_pairs_whatever_is_more_frequent() -> None:
    found = [(position, True) for position in range(20)] + [(position, False) for position in (3, 5)]
    for count, expected in ((1, 1), (2, 2), (9, 2)):
        chosen = pairs(found, count, "seed")
        assert Counter(right for _, right in chosen) == {True: expected, False: expected}
        assert set(chosen) <= set(found)
    assert pairs(found, 2, "seed") == pairs(found[::-1], 2, "seed")  # in whatever order processes find them
    assert len({tuple(pairs(found, 1, str(seed))) for seed in range(20)}) > 5
    assert pairs([(position, True) for position in range(20)], 4, "seed") == []


def test_by_gold_answers_each_verification_has_the_rating_of_its_completion_for_an_answer(make_config) -> None:
    learner, prompts = make(make_config(**ASKED | {"verify_labels": "gold"}))
    asked = ask(learner, prompts, solved(learner, prompts), 1, range(3))
    assert len(asked.prompts) == 4  # two pairs; of the third prompt all are right, so that nothing else can be asked
    seen = asked_in_steps(learner, prompts, solved(learner, prompts))
    expected = {"#### 4": "1", "#### 5": "2", "#### 6": "2", "+": "3", "#### 24": "1", "#### 25": "2", "#### 51": "1"}
    assert {text.split("=", 1)[1].removesuffix("\n="): rating for text, rating in seen.items()} == expected


def test_without_labels_only_groups_with_a_majority_say_which_answers_are_right(make_config) -> None:
    learner, prompts = make(make_config(**ASKED))
    seen = asked_in_steps(learner, prompts, replace(solved(learner, prompts), answers=[None] * 12))
    first = {text for text in seen if text.startswith(prompts[0].text)}
    assert first == {f"{prompts[0].text}+\n="}  # it states nothing, which is sure; of 4, 5 and 6 nobody knows
    assert any("#### 25" in text for text in seen)


def test_the_processes_of_a_run_choose_together_what_one_alone_would(make_config, monkeypatch) -> None:
    learner, prompts = make(make_config(**ASKED | {"verify_labels": "gold"}))
    whole = solved(learner, prompts)
    alone = ask(learner, prompts, whole, 1, range(3))
    shares = ((0, 2), (1,))
    keys: list[list] = []
    gather = "rlif.training.verification.gather_list"
    monkeypatch.setattr(gather, lambda accelerator, found: keys.append([*found]) or [])
    parts = [whole.select([4 * position + place for position in share for place in range(4)]) for share in shares]
    for part, share in zip(parts, shares, strict=True):
        ask(learner, prompts, part, 1, share)
    everything = [key for found in keys for key in found]
    monkeypatch.setattr(gather, lambda accelerator, found: everything)
    together = [ask(learner, prompts, part, 1, share) for part, share in zip(parts, shares, strict=True)]
    both = [pair for asked in together for pair in zip(asked.prompts, asked.seeds, strict=True)]
    assert sorted(both, key=str) == sorted(zip(alone.prompts, alone.seeds, strict=True), key=str)


def test_what_is_too_long_is_counted_and_left_out(make_config) -> None:
    learner, prompts = make(make_config(**ASKED | {"verify_labels": "gold", "verify_max_prompt_length": 11}))
    rollout = solved(learner, prompts)
    assert max(len(prompt.ids) for prompt in prompts) == 5  # "1+50=": with "#### 51" and the template 14 tokens
    asked = ask(learner, prompts, rollout, 1, range(3))
    assert asked.too_long > 0
    assert all(len(prompt.ids) <= 11 for prompt in asked.prompts)


# ---------------------------------------------------------------- what is learned


@pytest.fixture
def both_kinds(make_config: MakeConfig) -> tuple[Learner, Rollout, Rollout]:
    changes = {"reward": ("rise",), "verify_labels": "gold", "verify_share": 0.5, "beta": 0.0, "max_grad_norm": 1e9}
    learner, prompts = make(make_config(**ASKED | changes))
    solutions = solved(learner, prompts)
    asked = ask(learner, prompts, solutions, 1, range(3))
    verifications = loop.draw(learner, asked.prompts, asked.seeds)
    verifications.texts[:] = ["#### 1", "#### 2", "?", "#### 1"] * len(asked.prompts)
    return learner, solutions, verifications


def test_a_rollout_of_both_kinds_holds_the_tokens_of_each(both_kinds) -> None:
    _, solutions, verifications = both_kinds
    both = with_verifications(solutions, verifications, pad_token_id=0)
    assert both.solutions == list(range(12))
    assert both.verifications == list(range(12, 20))
    for rows, part in ((both.solutions, solutions), (both.verifications, verifications)):
        again = both.select(rows)
        for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "finished"):
            expected = getattr(part.select(range(len(part.texts))), name)
            assert torch.equal(getattr(again, name), expected), name
        assert (again.texts, again.answers, again.prompts) == (part.texts, part.answers, part.prompts)
    mixed = both.select([0, 13, 2])
    assert (mixed.solutions, mixed.verifications) == ([0, 2], [1])


@pytest.mark.parametrize(
    ("changes", "rewards"),
    [
        ({}, "score"),  # advantages are known before the forward
        ({"reward": ("rise", "self_certainty=0.5")}, "one forward"),
        ({"scale_rewards": "batch"}, "score"),
        ({"scale_rewards": "none", "max_tokens_per_forward": 40}, "score"),
    ],
)
def test_one_loss_learns_from_both_kinds_and_each_is_compared_with_its_own(changes, rewards, both_kinds) -> None:
    learner, solutions, verifications = both_kinds
    config = replace(learner.config, **changes)
    learner = replace(learner, config=config, rewards=load_rewards(config.reward))
    both = with_verifications(solutions, verifications, 0)
    _, ours = gradients(learner, both)

    # By hand: advantages of each kind alone, and one mean over the tokens of both.
    stats = learner.models.scorer(both, 1.0)
    of_solutions = torch.tensor([1, -0.5, -0.5, -1, 1, 1, -0.5, -1, 1, 1, 1, 1], dtype=torch.float64)
    if rewards == "one forward":
        sure = stats.self_certainty.detach().sum(dim=1) / both.completion_mask.sum(dim=1)
        of_solutions = of_solutions + 0.5 * sure[:12].double()
    gold = [verifications.answers[row] for row in range(8)]
    stated = ["1", "2", None, "1"] * 2
    of_verifications = torch.tensor(
        [-1.0 if each is None else 1.0 if each == right else -0.5 for each, right in zip(stated, gold, strict=True)],
        dtype=torch.float64,
    )
    advantages = []
    for values in (of_solutions, of_verifications):
        std = {"group": None, "batch": values.std(), "none": 1 - 1e-4}[config.scale_rewards]
        advantages.append(group_advantages(values, 4, std))
    weight = torch.cat(advantages).float()[:, None] * both.completion_mask
    learner.optimizer.zero_grad()
    (-(weight * stats.logprob).sum() / both.completion_mask.sum()).backward()
    expected = [each.grad for each in learner.models.scorer.parameters()]
    for mine, hand in zip(ours, expected, strict=True):
        # float32, divided over other forwards, and advantages that magnify rounding of self-certainty some 100 times.
        torch.testing.assert_close(mine, hand, atol=2e-4, rtol=1e-2)
    assert any((each != 0).any() for each in ours)


def test_the_metrics_of_solving_are_those_of_the_solutions_alone(both_kinds) -> None:
    learner, solutions, verifications = both_kinds
    alone, _ = gradients(learner, solutions)
    both, _ = gradients(learner, with_verifications(solutions, verifications, 0))
    of_updates = {"loss", "grad_norm", "num_tokens", "clip_ratio", "moved_weights"}
    for name in alone.keys() - of_updates - {"verify/prompts"}:
        # A statistic of the same tokens, from forwards that are divided otherwise.
        assert both[name] == pytest.approx(alone[name], rel=1e-4), name
    assert alone["verify/prompts"] == 0
    assert both["num_tokens"] == alone["num_tokens"] + verifications.completion_mask.sum().item()
    assert both["verify/num_tokens"] == verifications.completion_mask.sum().item()


def test_verifying_is_measured_by_hand(both_kinds) -> None:
    learner, solutions, verifications = both_kinds
    verifications.texts[:] = ["#### 1", "#### 1.0", "#### 1", "#### 20", "#### 1", "#### 3", "?", "#### 2"]
    assert verifications.answers[0] == "1"
    assert verifications.answers[4] in ("2", "3")  # which one of the last four states
    metrics, _ = gradients(learner, with_verifications(solutions, verifications, 0))
    assert metrics["verify/prompts"] == 2
    assert metrics["verify/balanced_accuracy"] == pytest.approx((3 / 4 + 3 / 4) / 2)
    assert metrics["verify/auroc"] == 1.0  # 3/4 call the right one right, 1/4 the other
    assert metrics["verify/accuracy"] == (3 + 1) / 8  # states the very rating
    assert metrics["verify/parse_rate"] == 6 / 8  # 20 is no rating
    assert metrics["verify/reward"] == (3 * 1 - 0.5 + 1 - 2 * 0.5 - 1) / 8


def test_without_a_rating_there_is_no_balanced_accuracy(both_kinds) -> None:
    learner, solutions, verifications = both_kinds
    verifications.texts[:] = ["#### 20", "?"] * 4
    metrics, _ = gradients(learner, with_verifications(solutions, verifications, 0))
    assert metrics["verify/parse_rate"] == 0
    assert math.isnan(metrics["verify/balanced_accuracy"])


# ---------------------------------------------------------------- whole runs


@pytest.fixture
def half_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let half of each prompt's completions agree, one state something else, and one nothing."""
    draw = loop.draw

    def drawn(learner: Learner, prompts: list[EncodedPrompt], seeds: list[tuple[int, ...]]) -> Rollout:
        rollout = draw(learner, prompts, seeds)
        if seeds[0][0] != VERIFICATION_SEED:
            rollout.texts[:] = ["#### 4", "#### 4", "#### 5", "+"] * len(prompts)
        return rollout

    monkeypatch.setattr(loop, "draw", drawn)


def test_a_run_asks_learns_and_shows_its_verifications(half_solved: None, make_config: MakeConfig) -> None:
    result = train(make_config(**ASKED))
    rows = [json.loads(line) for line in (result.run_dir / "samples.jsonl").read_text().splitlines()]
    assert [row["verify/prompts"] for row in result.rows] == [4, 4]  # two pairs of three prompts
    assert all(row["verify/completion_length"] > 0 for row in result.rows)
    verifications = [row for row in rows if row["prompt"].endswith("\n=")]
    assert [row["step"] for row in verifications] == [1, 1, 2, 2]
    expected = {"#### 4": "1", "#### 5": "2", "+": "3"}
    assert all(row["answer"] == expected[row["prompt"].split("=")[1].rstrip()] for row in verifications)
    assert all((row["split"] == "verify") is (row in verifications) for row in rows)
    assert all(row["reward"] is not None for row in verifications)


def test_without_verify_nothing_is_measured_of_it_and_its_options_change_nothing(make_config, tmp_path) -> None:
    plain = train(make_config())
    other = train(make_config(output_dir=tmp_path / "other", verify_share=0.5, verify_max_prompt_length=3))
    assert not [name for row in plain.rows for name in row if name.startswith("verify/")]
    for ours, theirs in zip(plain.rows, other.rows, strict=True):
        assert {n: v for n, v in ours.items() if n not in TIMES} == {n: v for n, v in theirs.items() if n not in TIMES}


def test_data_without_gold_answers_is_one_clear_line_unless_no_labels_are_needed(make_config, write_jsonl) -> None:
    data = write_jsonl({"prompt": "1+3=", "answer": 4}, {"prompt": "20+3="}, name="unlabelled.jsonl")
    config = make_config(**ASKED | {"data": str(data), "verify_labels": "gold"})
    message = r"verify_labels: got 'gold', but data: .*unlabelled.jsonl, line 2 has no `answer`"
    with pytest.raises(UserError, match=message) as error:
        train(config)
    assert "\n" not in str(error.value)
    assert not config.output_dir.exists()
    train(replace(config, verify_labels="majority", prompts_per_step=2))


def test_a_template_that_the_model_cannot_read_is_found_before_anything_is_written(make_config: MakeConfig) -> None:
    config = make_config(**ASKED | {"verify_template": None})
    with pytest.raises(UserError, match="verify_template: got 'Rate the solution"):
        train(config)
    assert not config.output_dir.exists()


@pytest.mark.parametrize(("labels", "keeps"), [("gold", False), ("majority", True)])
def test_the_guard_ends_no_run_that_learns_from_gold_answers(labels, keeps, make_config: MakeConfig) -> None:
    run = prepare(make_config(**ASKED | {"verify_labels": labels, "guard": "stop"}), SilentProgress())
    assert run.keeps_best is keeps
    run.close()


def test_a_chat_model_is_asked_through_its_template(half_solved, make_config, tmp_path) -> None:
    characters = "".join(dict.fromkeys(string.printable))
    torch.manual_seed(0)
    shape = SIZES | {"vocab_size": 3 + len(characters), "max_position_embeddings": 1024}
    Qwen3ForCausalLM(Qwen3Config(**shape, tie_word_embeddings=True)).save_pretrained(tmp_path / "chat")
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}<assistant>"
    make_tokenizer(characters, template).save_pretrained(tmp_path / "chat")
    told = {"chat": True, "verify": True, "verify_labels": "majority", "verify_share": 1.0}
    result = train(make_config(model=str(tmp_path / "chat"), reward=("rise_majority",), max_steps=1, **told))
    rows = [json.loads(line) for line in (result.run_dir / "samples.jsonl").read_text().splitlines()]
    (verification, *_) = [row for row in rows if "### Solution" in row["prompt"]]
    assert verification["prompt"].startswith("<user>Rate the solution")
    assert verification["prompt"].endswith("### End of the solution\n</user><assistant>")
    assert verification["answer"] in ("1", "-0.5", "-1")
    assert result.rows[-1]["verify/prompts"] == 4
