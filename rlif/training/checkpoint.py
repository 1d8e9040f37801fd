"""A run continues from its checkpoints as if it had never stopped.

A checkpoint is RUN_DIR/checkpoint-STEP: the model as transformers saves it (with LoRA the adapter), the optimizer's
tensors, and a JSON file. The order of the prompts, the learning rate, and all random numbers of a step are functions
of the configuration and the step, so nothing else has to be kept. There is no pickle in it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from rlif.errors import UserError
from rlif.files.directories import UNFINISHED, damage
from rlif.files.fingerprint import fingerprint
from rlif.models.master_weights import MASTER, WIDE
from rlif.options.checks import AtLeast, read_checked
from rlif.rollouts.encode import EncodedPrompt

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
# What AdamW keeps of every weight. Of one of half precision `MasterWeightsAdamW` has its master weight too.
OPTIMIZER_FIELDS = frozenset({"step", "exp_avg", "exp_avg_sq"})
# Numbers of each weight tensor that its fingerprint reads, evenly spaced: training changes nearly all of them.
FINGERPRINT_SAMPLE = 1024


Natural = Annotated[int, AtLeast(0)]


@dataclass
class RunState:
    """Where a run is."""

    data_fingerprint: str
    model_fingerprint: str
    """Of the start model."""
    step: Natural = 0
    """Steps done."""
    skipped_updates: Natural = 0
    metrics_bytes: Natural = 0
    """Length of metrics.jsonl when the step was done."""
    samples_bytes: Natural = 0
    metrics_sha256: str | None = None
    """Of these bytes; None in a checkpoint of an earlier version, and before the first one."""
    samples_sha256: str | None = None
    eval_data_fingerprint: str | None = None
    entropy_coef: float | None = None
    """Where it follows the entropy: as it is now."""
    last_entropy: Annotated[float, AtLeast(0)] | None = None
    """Which the last update saw, nats; None where nothing follows it."""

    def save(self, directory: Path) -> None:
        """Write it into a checkpoint."""
        (directory / STATE_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> RunState:
        """Read it from a checkpoint.

        Raises:
            UserError: another version of the program wrote it, or something else.
        """
        state = read_checked(cls, directory / STATE_FILE, argument="resume")
        if state.step != _step(directory):
            raise UserError(f"resume: {directory / STATE_FILE}: step: got {state.step}, expected {_step(directory)}")
        return state


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest first."""
    found = [path for path in run_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def newest_intact(run_dir: Path) -> Path | None:
    """Find the newest checkpoint that is as it was written, and warn of newer ones that are not; None if there is none.

    Raises:
        UserError: there are checkpoints, and all of them are damaged.
    """
    found = checkpoints(run_dir)
    faults: list[str] = []
    for path in found:
        fault = damage(path)
        if fault is None:
            for each in faults:
                warnings.warn(f"resume: passed over a damaged checkpoint, {each}", stacklevel=2)
            return path
        faults.append(f"{path}: {fault}")
    if found:
        raise UserError(f"resume: every checkpoint is damaged: {'; '.join(faults)}")
    return None


def remove_old_checkpoints(run_dir: Path, keep: int | None, step: int) -> None:
    """Remove what an interrupted write left behind, and all checkpoints but the `keep` newest up to that of `step`.

    Those of later steps were damaged, or the run would have gone on from them: they must not take the place of others.

    Raises:
        UserError: one cannot be removed.
    """
    for leftover in run_dir.glob(f".*{UNFINISHED}"):
        shutil.rmtree(leftover, ignore_errors=True)
    if keep is not None:
        usable = [path for path in checkpoints(run_dir) if _step(path) <= step]
        for path in set(checkpoints(run_dir)).difference(usable[:keep]):
            # Under this name it is no checkpoint any more, even if the removal is interrupted.
            try:
                dying = path.rename(path.with_name(f".{path.name}{UNFINISHED}"))
            except FileNotFoundError:  # gone, with the run's directory perhaps, which whoever writes next will say
                continue
            except OSError as error:
                raise UserError(f"save_total_limit: cannot remove {path}: {error.strerror}") from error
            shutil.rmtree(dying, ignore_errors=True)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Collect the optimizer's state of each weight, whole and on the CPU; under FSDP every process has to call this."""
    return {
        f"{name}.{key}": _whole(value)
        for name, weight in model.named_parameters()
        for key, value in optimizer.state.get(weight, {}).items()
    }


def save_optimizer(tensors: dict[str, Tensor], directory: Path) -> None:
    """Write `optimizer_tensors` into a checkpoint."""
    save_file(tensors, directory / OPTIMIZER_FILE)


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Let a new optimizer of the same weights remember what the saved one did.

    Raises:
        UserError: it is of other weights.
    """
    weights = dict(model.named_parameters())
    path = directory / OPTIMIZER_FILE
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"resume: cannot read {path}: {error}") from error
    for key, value in saved.items():
        name, _, field = key.rpartition(".")
        if name not in weights or not _is_kept(field, value, weights[name]):
            raise UserError(f"resume: {path} has {key} ({value.dtype}), which AdamW does not keep of these weights")
        if value.shape != (() if field == "step" else weights[name].shape):
            raise UserError(f"resume: {path} has {key} of shape {tuple(value.shape)}, which no weight has")
        optimizer.state[weights[name]][field] = _like(weights[name], value)
    for name, weight in weights.items():
        if weight in optimizer.state and set(optimizer.state[weight]) - {MASTER} != OPTIMIZER_FIELDS:
            raise UserError(f"resume: {path} has only a part of what AdamW keeps of {name}")


def _is_kept(field: str, value: Tensor, weight: Tensor) -> bool:
    """Tell whether AdamW keeps such a value of a weight."""
    if field == MASTER:
        return weight.dtype not in WIDE and value.dtype == torch.float32
    return field in OPTIMIZER_FIELDS and value.is_floating_point()


def _whole(value: Tensor) -> Tensor:
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.cpu().contiguous()


def _like(weight: Tensor, value: Tensor) -> Tensor:
    """Put the value where the weight is, sharded over the processes as the weight is; a count is not sharded."""
    value = value.to(weight.device)
    if isinstance(weight, DTensor) and value.ndim > 0:
        return distribute_tensor(value, weight.device_mesh, weight.placements)
    return value


def data_fingerprint(prompts: Iterable[EncodedPrompt]) -> str:
    """Hash the prompts: the digest changes with any token or gold answer, and with their order."""
    return fingerprint([prompt.ids, prompt.answer] for prompt in prompts)


def model_fingerprint(model: PreTrainedModel) -> str:
    """Hash the weights: the digest changes with their names and shapes, and with any training of them."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        numbers = weight.detach().flatten()
        sample = numbers[:: max(1, len(numbers) // FINGERPRINT_SAMPLE)]
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(sample.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
