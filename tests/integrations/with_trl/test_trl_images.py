"""`RLIFTrainer` on prompts with images, by a tiny model that sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, Qwen3Config

pytest.importorskip("trl", reason="trl is not installed: pip install 'rlif[trl]'")

from PIL import Image
from transformers import CLIPImageProcessorPil
from trl import GRPOTrainer

import tiny_trl as tiny
from rlif.integrations.trl import RLIFTrainer

TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] + '=' }}{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a=' }}{% endif %}"
)


def sees() -> dict[str, Any]:
    """A random model of text and images of 8 by 8 pixels, and its processor."""
    tokenizer = tiny.make_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = Qwen3Config(**(tiny.SIZES | {"vocab_size": len(tokenizer)}))
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=True,
    )  # fmt: skip
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
        tokenizer=tokenizer, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )  # fmt: skip
    return {"model": LlavaForConditionalGeneration(config), "processing_class": processor}


def pictures() -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (len(tiny.PROMPTS), 8, 8, 3), dtype=np.uint8)
    prompts = [[{"role": "user", "content": text}] for text in tiny.PROMPTS]
    return Dataset.from_dict({"prompt": prompts, "image": [Image.fromarray(each) for each in pixels]})


def variety(completion_ids: list[list[int]], **_: object) -> list[float]:
    return [float(len(set(ids))) for ids in completion_ids]


def test_on_prompts_with_images_the_steps_are_trls_and_self_certainty_is_that_of_their_logits(tmp_path: Path) -> None:
    stock = GRPOTrainer(**sees(), reward_funcs=variety, args=tiny.config(tmp_path), train_dataset=pictures())
    expected = tiny.trained(stock)
    found = {}
    for iterations in (1, 2):
        config = tiny.config(tmp_path, reward_weights=[1.0, 0.0], num_iterations=iterations)
        trainer = RLIFTrainer(**sees(), reward_funcs=[variety, "self_certainty"], args=config, train_dataset=pictures())
        weights = tiny.trained(trainer)
        found[trainer.stats_source] = tiny.rows(trainer)[0]["rewards/self_certainty/mean"]
        if iterations == 1:
            assert tiny.furthest(weights, expected) <= 1e-5
            assert list(trainer._logs["completion"]) == list(stock._logs["completion"])
    # Of the logits that were drawn from, and of a forward afterwards, in which the images count too.
    assert found.keys() == {"sampling", "old_logps"}
    assert found["sampling"] == pytest.approx(found["old_logps"], abs=1e-5)
