"""Learn what was ranked: pairs -> one forward over chosen and rejected -> loss -> backward -> AdamW step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch

from rlif.files.fingerprint import fingerprint
from rlif.files.jsonl import Row
from rlif.models.activation_checkpointing import enable_checkpointing
from rlif.models.language_model import LanguageModel, load_with_options
from rlif.models.lora import policy_to_train
from rlif.models.reward_model import load_reward_model
from rlif.scoring.scorer import make_scorer
from rlif.self_feedback.nft import JudgedCompletion
from rlif.self_feedback.objectives import DPO, NFT, BradleyTerry
from rlif.self_feedback.options import SelfFeedbackConfig
from rlif.self_feedback.rank import Pair
from rlif.self_feedback.reference_logprobs import reference_logprobs
from rlif.training.checkpoint import model_fingerprint
from rlif.training.items import ItemTraining, Objective, train_items

# Options of the training that change nothing but rounding, or when checkpoints are written.
STAGE_CHANGEABLE = ("gradient_checkpointing", "save_steps")
# Options that the last release did not have, with what they are where nobody asks for anything else.
LATER = {"master_weights": True, "lora_modules_to_save": ()}
# Beside a trained model: what it was trained by and on.
ORIGIN_FILE = "self_feedback.json"
FOLDERS = {"dpo": "model", "nft": "model", "reward_model": "reward_model"}

Items = Sequence[Pair] | Sequence[JudgedCompletion]


def train_model(
    config: SelfFeedbackConfig, start: LanguageModel, name: str, items: Items, output_dir: Path
) -> list[Row]:
    """Train as `config.train` says, and leave the model in output_dir/model, or in output_dir/reward_model.

    output_dir/train-OBJECTIVE has metrics.jsonl, the reference log-probabilities and, while it goes on, a checkpoint.

    Args:
        config: resolved.
        start: the model to start from, changed in place.
        name: by which it was loaded.
        items: to learn from: judged completions for NFT, else preference pairs.
        output_dir: where to.

    Returns:
        The rows of metrics.jsonl, per step: loss (mean over its items); accuracy (share of pairs whose chosen
        completion has the higher reward; with NFT, of completions that moved as they were judged); grad_norm;
        learning_rate; means of rewards/chosen and rewards/rejected, or of log_ratio, in nats; and of comparisons
        between prompts, where pairs have them, length/accuracy and length/loss.

    Raises:
        UserError: an earlier training in this directory had other settings; a loss that is not finite; no space.
        KeyboardInterrupt: Ctrl-C or SIGTERM, within one forward and after a checkpoint is saved.
    """
    options, directory = config.train, output_dir / f"train-{config.train.objective}"
    settings = {
        name: value
        for name, value in dataclasses.asdict(options).items()
        # A training that was begun before there was such an option goes on with its default.
        if name not in STAGE_CHANGEABLE and (name, value) not in LATER.items()
    }
    origin = {
        "model": model_fingerprint(start.model)[:16],
        "preferences": fingerprint(map(dataclasses.astuple, items))[:16],
    }
    settings |= origin | {"seed": config.seed}
    if config.length.length_conditioned:
        settings["lam"] = config.length.lam
    training = ItemTraining(
        options,
        num_items=len(items),
        items_per_step=options.pairs_per_step,
        num_epochs=options.num_train_epochs,
        save_steps=options.save_steps,
        seed=config.seed,
        dtype=config.dtype,
        max_tokens_per_forward=config.max_tokens_per_forward,
        settings=settings,
        directory=directory,
        final=output_dir / FOLDERS[options.objective],
        origin_file=ORIGIN_FILE,
        needed=("loss", "accuracy"),
    )
    return train_items(training, partial(make_objective, config, start, name, items, directory, origin))


def make_objective(
    config: SelfFeedbackConfig,
    start: LanguageModel,
    name: str,
    items: Items,
    directory: Path,
    origin: dict[str, str],
    checkpoint: Path | None,
) -> tuple[Objective, Callable[[Path], None]]:
    """What learns, as it is at the start or in a checkpoint, and what writes it into a directory."""
    options = config.train
    if options.objective == "reward_model":
        dtype = getattr(torch, config.dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # of the new head
            reward_model = load_reward_model(
                name if checkpoint is None else str(checkpoint),
                device=start.device,
                dtype=dtype,
                pad_token_id=start.pad_token_id,
                new_head=checkpoint is None,
            )
        if options.gradient_checkpointing:
            enable_checkpointing(reward_model.model)

        def write_reward_model(target: Path) -> None:
            reward_model.model.save_pretrained(target)
            start.tokenizer.save_pretrained(target)

        pairs = cast(Sequence[Pair], items)
        return BradleyTerry(reward_model, pairs, options, config.length.lam), write_reward_model

    sequences = [sequence for item in items for sequence in item.sequences()]
    reference = reference_logprobs(
        make_scorer(start.model, config),
        start,
        sequences,
        directory / f"reference_logprobs-{origin['preferences']}.jsonl",
        settings=origin,
        max_tokens_per_forward=config.max_tokens_per_forward,
        per_token=options.objective == "nft",
    )
    policy = policy_to_train(start, options, checkpoint, partial(load_with_options, config), seed=config.seed)
    if options.gradient_checkpointing:
        enable_checkpointing(policy.model)
    scorer = make_scorer(policy.model, config)
    if options.objective == "nft":
        return NFT(scorer, policy, cast(Sequence[JudgedCompletion], items), reference), policy.save
    sums = torch.tensor([numbers[0] for numbers in reference], device=start.device).view(len(items), -1)
    return DPO(scorer, policy, cast(Sequence[Pair], items), sums.unbind(dim=1), options, config.length.lam), policy.save
