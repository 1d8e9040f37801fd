"""TRL's per-token log-probabilities and entropies by `linear_token_stats`, with the values and the gradients TRL has.

TRL's GRPOTrainer and RLOOTrainer give their models a second forward, `model(…, labels=…, fused_lm_head=True)`, that
returns statistics instead of logits. Here it is exchanged for one of ours, on the models of one trainer, so that
whatever wraps a model (DDP, FSDP, accelerate's autocast, peft) sees the call that it knows. The logits of the model's
ordinary forward, which generate reads, can be listened to on the way: see `sampling.py`.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from trl import GRPOTrainer, RLOOTrainer
from trl.trainer.utils import FusedCausalLMOutput

from rlif.errors import UserError
from rlif.integrations.trl.distillation import FusedDivergence, module_of
from rlif.models.fused_head import FusedHead, backbone, fused_head
from rlif_kernels import TokenStats, linear_grpo_loss, linear_token_stats
from rlif_kernels.stats import IGNORE_INDEX

SERVED = (
    "GRPOTrainer", "RLOOTrainer", "DistillationTrainer", "GKDTrainer", "GOLDTrainer", "IWOPDTrainer", "SDFTTrainer",
    "SDPOTrainer",
)  # fmt: skip
POLICY_OUTPUTS = ("logprob", "entropy")
REFERENCE_OUTPUTS = ("logprob",)
FUSED_HINT = "TRL's own functions serve such a model: RLIFTrainer, or GRPOTrainer without use_fused_token_stats"
UNFIT_HINT = "TRL's own functions compute its log-probabilities"

LogitsListener = Callable[[Tensor | None, Tensor], None]


@dataclass(frozen=True)
class Loss:
    """What the loss of B completions of T tokens needs besides the hidden states and the head."""

    mask: Tensor
    """(B, T) bool, the tokens that count."""
    options: dict[str, Any]
    """Further keyword arguments of `linear_grpo_loss`."""


@dataclass
class Patch:
    """One model whose forward was exchanged."""

    model: PreTrainedModel
    head: FusedHead | None
    """None where it is of another form: then TRL's own stays, and ours only listens."""
    outputs: tuple[str, ...]
    original: Callable[..., Any]
    """TRL's."""
    forward: Callable[..., Any]
    """Ours."""
    installed: bool = False
    """Whether ours is called: it stays so after `undo` where something has wrapped it."""


class FusedTokenStats:
    """What `use_fused_token_stats` exchanged in a trainer, until `undo` or the end of a `with`.

    Attributes:
        active: whether it is exchanged now.
        unfit: why a head was left out, in words; None: none was.
    """

    def __init__(self, trainer: Any, *, optional: bool = False) -> None:
        """Check and apply, as `use_fused_token_stats` describes; `optional` leaves out heads of another form."""
        if not isinstance(trainer, GRPOTrainer | RLOOTrainer):
            raise UserError(f"trainer: got {type(trainer).__name__}, expected one of {', '.join(SERVED)}")
        if trainer._dist.is_zero3:
            raise UserError(
                "trainer: got DeepSpeed ZeRO-3, whose weights are away when the backward needs them; expected ZeRO-2, "
                "FSDP or DDP"
            )
        self.trainer = trainer
        self.temperature = float(trainer.temperature)
        self.cast_lm_head_to_fp32 = bool(getattr(trainer.args, "cast_lm_head_to_fp32", False))
        self.active = False
        self._also: tuple[str, ...] = ()
        self._recorded: list[TokenStats] | None = None
        self._listener: LogitsListener | None = None
        self._loss: Loss | None = None
        self.unfit: str | None = None
        models: list[tuple[PreTrainedModel, tuple[str, ...]]] = [
            (_language_model(trainer, trainer.model), POLICY_OUTPUTS)
        ]
        if getattr(trainer, "ref_model", None) is not None:
            models.append((_language_model(trainer, trainer.ref_model), REFERENCE_OUTPUTS))
        self.patches = [self._patch(model, outputs, optional=optional) for model, outputs in models]
        self.apply()

    def apply(self) -> None:
        """Exchange the functions, if they are not exchanged already."""
        for patch in self.patches:
            if not patch.installed:
                patch.original, patch.model.forward = patch.model.forward, patch.forward
                patch.installed = True
        self.active = True

    def undo(self) -> None:
        """Give the models back the functions they had; where something has wrapped ours since, it passes through."""
        self.active = False
        for patch in self.patches:
            if vars(patch.model).get("forward") is patch.forward:
                patch.model.forward = patch.original
                patch.installed = False

    def __enter__(self) -> FusedTokenStats:
        self.apply()
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()

    @contextmanager
    def recording(self, outputs: tuple[str, ...]) -> Iterator[list[TokenStats]]:
        """Within, the policy's statistics have these fields too, and the list gets those of every call.

        They are (B, S - 1) as TRL's, detached: position t belongs to token t + 1.
        """
        self._also, self._recorded = outputs, []
        try:
            yield self._recorded
        finally:
            self._also, self._recorded = (), None

    @contextmanager
    def listening(self, listener: LogitsListener) -> Iterator[None]:
        """Within, the listener gets the input ids (B, S) and the logits (B, S', V) of the policy's plain forwards."""
        self._listener = listener
        try:
            yield
        finally:
            self._listener = None

    @contextmanager
    def learning(self, loss: Loss) -> Iterator[None]:
        """Within, the `loss` of the policy's outputs is this one, and nothing else of them has a gradient."""
        self._loss = loss
        try:
            yield
        finally:
            self._loss = None

    def _patch(self, model: PreTrainedModel, outputs: tuple[str, ...], *, optional: bool) -> Patch:
        # The signature stays: generate looks up in it what it may pass.
        @functools.wraps(type(model).forward)
        def forward(model: PreTrainedModel, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
            if fused_lm_head and self.active and patch.head is not None and kwargs.get("shift_labels") is None:
                return self._statistics(patch, *args, **kwargs)
            if fused_lm_head:
                kwargs["fused_lm_head"] = True
            result = patch.original(*args, **kwargs)
            if self._listener is not None and patch is self.patches[0] and not fused_lm_head:
                self._listener(args[0] if args else kwargs.get("input_ids"), result.logits)
            return result

        try:
            head = checked_head(model, UNFIT_HINT if optional else FUSED_HINT)
        except UserError as error:
            if not optional:
                raise
            head, self.unfit = None, str(error)
        patch = Patch(model, head, outputs, model.forward, types.MethodType(forward, model))
        return patch

    def _statistics(
        self, patch: Patch, *args: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None, **kwargs: Any
    ) -> FusedCausalLMOutput:
        model, config, head = patch.model, patch.model.config.get_text_config(), patch.head
        assert head is not None
        kwargs["use_cache"] = False
        kwargs.pop("shift_labels", None)
        if getattr(config, "output_router_logits", False):
            kwargs.setdefault("output_router_logits", True)
        states = backbone(model)(*args, **kwargs)
        # Looked up at every call: FSDP and peft exchange it.
        linear = model.get_output_embeddings()
        weight, bias = (
            parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            for parameter in (linear.weight, linear.bias)
        )
        targets = labels[:, 1:].to(weight.device)
        is_policy = patch is self.patches[0]
        learns = self._loss if is_policy else None
        # The prompts, which TRL pads to one length, take part in nothing; nor do they count as rows of a tile then.
        first = int((targets != IGNORE_INDEX).any(dim=0).long().argmax()) if targets.numel() else 0
        if learns is not None:
            first = targets.shape[1] - learns.mask.shape[1]
        hidden = states.last_hidden_state[:, first:-1].to(weight.device)
        device = hidden.device.type
        if self.cast_lm_head_to_fp32:
            hidden = hidden.float()
        options: dict[str, Any] = {
            "temperature": head.temperature(self.temperature),
            "softcap": head.softcap,
            "vocab_size": head.vocab_size,
            "logits_dtype": head.logits_dtype,
        }
        with torch.autocast(device, enabled=False) if self.cast_lm_head_to_fp32 else nullcontext():
            if not torch.is_autocast_enabled(device) and weight.dtype != hidden.dtype:
                weight, bias = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
            drawn = targets[:, first:]
            loss: Tensor | None = None
            if learns is not None:
                options |= learns.options
                result = linear_grpo_loss(
                    hidden, weight, drawn, bias=bias, mask=learns.mask, outputs=patch.outputs, **options
                )
                loss, stats = result.loss, TokenStats(result.logprob, result.entropy)
            else:
                outputs = tuple(dict.fromkeys((*patch.outputs, *(self._also if is_policy else ()))))
                stats = linear_token_stats(hidden, weight, drawn, bias=bias, outputs=outputs, **options)
        stats = TokenStats(*(None if field is None else _prepended(field, first) for field in stats))
        if is_policy and self._recorded is not None:
            self._recorded.append(TokenStats(*(None if field is None else field.detach() for field in stats)))

        assert stats.logprob is not None
        counted, aux_loss = targets != IGNORE_INDEX, None
        if kwargs.get("output_router_logits"):
            # transformers' models of experts all share this one.
            from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

            aux_loss = load_balancing_loss_func(
                states.router_logits, config.num_experts, config.num_experts_per_tok, kwargs.get("attention_mask")
            )
        if loss is None:
            count = counted.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
            loss = -stats.logprob.sum() / count
            if aux_loss is not None:
                loss = loss + getattr(config, "router_aux_loss_coef", 0.0) * aux_loss
        return FusedCausalLMOutput(
            loss=loss, log_probs=stats.logprob, entropy=stats.entropy, label_mask=counted, aux_loss=aux_loss
        )


def use_fused_token_stats(trainer: Any) -> FusedTokenStats | FusedDivergence:
    """Let a trainer of TRL compute what it reads from logits by rlif's kernels, reference model or teacher included.

    Log-probabilities and entropies of GRPOTrainer and RLOOTrainer are those of `linear_token_stats`, and divergences of
    trainers that distil those of `linear_divergence` and `divergence` (`rlif.integrations.trl.distillation` has the
    table). Same arguments, same values (softcap, logit scale and temperature too), same gradients; padding and prompts
    take part in no matrix product of a fused head. Everything else of the trainer stays as it is.

    Args:
        trainer: a GRPOTrainer, RLOOTrainer, DistillationTrainer, GKDTrainer, GOLDTrainer, IWOPDTrainer, SDFTTrainer or
            SDPOTrainer, at any time; best before `train`.

    Returns:
        What undoes it: by `.undo()`, or at the end of a `with use_fused_token_stats(trainer):`. A trainer that has it
        already gets the same again.

    Raises:
        UserError: another trainer, a model whose logits are not softcap(scale * (hidden @ weight.T + bias)) of one
            plain linear layer, weights that are sharded by DeepSpeed ZeRO-3, or self-distillation from a few tokens'
            log-probabilities. Nothing has been exchanged then.
    """
    fused = getattr(trainer, "fused_token_stats", None)
    if fused is None:
        distils = module_of(trainer) is not None
        fused = trainer.fused_token_stats = FusedDivergence(trainer) if distils else FusedTokenStats(trainer)
    fused.apply()
    return fused


def _prepended(field: Tensor, count: int) -> Tensor:
    """(B, T, …) with `count` zeros before it along T."""
    return torch.cat([field.new_zeros(field.shape[0], count, *field.shape[2:]), field], dim=1)


def _language_model(trainer: Any, model: Any) -> PreTrainedModel:
    model = trainer.accelerator.unwrap_model(model)
    return model.get_base_model() if is_peft_model(model) else model


def checked_head(model: PreTrainedModel, hint: str) -> FusedHead:
    """`rlif.models.fused_head.fused_head` of a model in whatever mode its modules are, which they keep."""
    with as_it_was_loaded(model):
        return fused_head(model, hint=hint)


@contextmanager
def as_it_was_loaded(model: PreTrainedModel) -> Iterator[None]:
    """Within, the model is in evaluation mode, and its forward the model's own: accelerate's would autocast logits."""
    modes = {module: module.training for module in model.modules()}
    wrapped = vars(model).pop("forward", None)
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        if wrapped is not None:
            model.forward = wrapped
