"""`RLIFTrainer` where completions come otherwise than from one prompt of text: tools, batches without ends, images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from trl import GRPOTrainer
from trl.trainer import grpo_trainer

import tiny_trl as tiny
from rlif.errors import UserError
from rlif.integrations.trl import RLIFTrainer

# Renders what a tool was called with, and what it returned.
TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] + '=' + message['content'] }}"
    "{% for call in message.get('tool_calls') or [] %}{{ call['function']['name'] ~ call['function']['arguments'] }}"
    "{% endfor %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'a=' }}{% endif %}"
)


def variety(completion_ids: list[list[int]], **_: object) -> list[float]:
    return [float(len(set(ids))) for ids in completion_ids]


def double(number: int) -> int:
    """Double a number.

    Args:
        number: to double.
    """
    return 2 * number


def called(tokenizer: Any, ids: list[int], **_: object) -> dict[str, Any]:
    """A message of these ids; every other one calls a tool. A model that has learned to would say so in its text."""
    message = {"role": "assistant", "content": tokenizer.decode(ids, skip_special_tokens=True)}
    if ids[0] % 2 == 0:
        message["tool_calls"] = [{"type": "function", "function": {"name": "double", "arguments": {"number": 21}}}]
    return message


def test_with_tools_and_several_turns_the_steps_are_trls(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo_trainer, "parse_response", called)
    turns = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": "5"}, {"role": "user", "content": "twice"}]
        for text in tiny.PROMPTS
    ]

    def make(trainer_class: Any, rewards: list[Any], **changes: Any) -> Any:
        options = {name: changes.pop(name) for name in ("sampler",) if name in changes}
        tokenizer = tiny.make_tokenizer()
        tokenizer.chat_template, tokenizer.response_template = TEMPLATE, {}
        config = tiny.config(tmp_path, max_completion_length=24, max_tool_calling_iterations=2, **changes)
        data = Dataset.from_dict({"prompt": turns})
        trainer = trainer_class(
            str(model_dir), rewards, config, data, processing_class=tokenizer, tools=[double], **options
        )
        generate = trainer._generate_single_turn

        def short(*args: Any, **kwargs: Any) -> Any:  # so that there is room for what follows
            completions, logprobs = generate(*args, **kwargs)
            return [ids[:4] for ids in completions], logprobs

        trainer._generate_single_turn = short
        return trainer

    stock = make(GRPOTrainer, [variety])
    expected = tiny.trained(stock)
    assert all(row["tools/call_frequency"] > 0 and row["tools/failure_frequency"] == 0 for row in tiny.rows(stock))
    trainer = make(RLIFTrainer, [variety, "self_certainty"], reward_weights=[1.0, 0.0], sampler="transformers")
    assert tiny.furthest(tiny.trained(trainer), expected) <= 1e-5
    assert trainer.stats_source == "forward"
    assert list(trainer._logs["completion"]) == list(stock._logs["completion"])
    for row, other in zip(tiny.rows(trainer), tiny.rows(stock), strict=True):
        assert math.isfinite(row["rewards/self_certainty/mean"])
        for name in ("tools/call_frequency", "completions/mean_length", "rewards/variety/mean"):
            assert row[name] == other[name]


def test_with_continuous_batching_the_steps_are_trls(model_dir: Path, tmp_path: Path) -> None:
    few = {"num_blocks": 8, "page_size": 32, "max_batch_tokens": 64}  # the cache would take what memory there is
    settings = {
        "use_transformers_continuous_batching": True, "transformers_continuous_batching_config": few, "max_steps": 1,
    }  # fmt: skip
    reward = tiny.SelfCertainty()
    stock = reward.trainer = GRPOTrainer(str(model_dir), reward, tiny.config(tmp_path, **settings), tiny.dataset())
    expected = tiny.trained(stock)
    trainer = RLIFTrainer(str(model_dir), "self_certainty", tiny.config(tmp_path, **settings), tiny.dataset())
    assert tiny.furthest(tiny.trained(trainer), expected) <= 1e-5
    assert trainer.stats_source == "forward"
    assert list(trainer._logs["completion"]) == list(stock._logs["completion"])


@pytest.mark.parametrize("column", ["image", "images"])
def test_images_are_refused_before_any_work_where_nothing_would_read_their_statistics(
    column: str, model_dir: Path, tmp_path: Path
) -> None:
    data = tiny.dataset().add_column(column, [None] * len(tiny.PROMPTS))
    config = tiny.config(tmp_path, use_transformers_continuous_batching=True)
    with pytest.raises(
        UserError, match=f"reward_funcs: got the confidence reward self_certainty and a column {column}"
    ):
        RLIFTrainer(str(model_dir), ["format", "self_certainty"], config, data)
    RLIFTrainer(str(model_dir), ["format"], config, data)  # which reads texts
