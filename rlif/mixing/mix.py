"""`rlif mix`: the weighted mean of two models' weights, between a base model and what was tuned from it.

"No Free Lunch" (arXiv 2506.17219) mixes base and instruction-tuned models this way, to vary the entropy that training
starts from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from rlif.errors import UserError
from rlif.files.directories import write_directory
from rlif.files.json_values import write_json
from rlif.files.lock import Lock
from rlif.files.room import check_room
from rlif.mixing.options import TokenizerFrom, check_ratio
from rlif.mixing.weight_files import CONFIG_FILES, TOKENIZER_FILES, WeightFiles
from rlif.options.record import check_new
from rlif.progress_bar import bar

INDEX = "model.safetensors.index.json"
# What shapes do not show, and without which the weights of one model mean nothing in the other.
SAME_SETTINGS = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act")
# Differences between a base and a tuned model that say nothing about what the weights do.
HARMLESS = frozenset(
    {"_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache"}
    | {"tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings"}
)


def mix(
    base: str | Path,
    instruct: str | Path,
    ratio: float,
    output_dir: Path,
    *,
    tokenizer_from: TokenizerFrom = "base",
    max_shard_size: int | str = "5GB",
    console: Console | None = None,
    record: Callable[[Path], None] = lambda directory: None,
) -> None:
    """Write the model whose weights are (1 - ratio) x base + ratio x instruct.

    In float32 (float64 where the base is) and rounded once to the base's type; at ratio 0 and 1, and wherever both are
    equal, exactly theirs. Whole numbers (buffers) must be equal. Word embeddings that are tied to the head in both
    models stay tied; tied in one only, they become two weights, and config.json says so.

    Args:
        base: directory or hub id of a model with safetensors files.
        instruct: another of the same architecture, with tensors of the same names and shapes.
        ratio: from 0 to 1.
        output_dir: directory to make; it appears when it is whole.
        tokenizer_from: "base" or "instruct": whose tokenizer and generation_config.json are copied.
        max_shard_size: bytes of one file of weights, or text such as "500MB".
        console: shows a progress bar; None shows nothing.
        record: writes into the directory what made it, before it appears.

    Raises:
        UserError: bad input, before anything is written; or no room to write.
    """
    check_ratio(ratio)
    check_new(output_dir)
    models = WeightFiles(str(base), "base"), WeightFiles(str(instruct), "instruct")
    _check_settings(*models, console)
    names = _common_names(*models)
    _check_tensors(*models, names)
    shards, total = _plan(models[0], names, max_shard_size)
    check_room(output_dir, total)
    with bar(f"Mixing {ratio:g}", "", total, in_bytes=True, console=console, disable=console is None) as move:

        def write(directory: Path) -> None:
            for file, members in shards.items():
                tensors = {name: _mixed(*models, name, ratio, move) for name in members}
                save_file(tensors, directory / file, metadata={"format": "pt"})
            if len(shards) > 1:
                where = {name: file for file, members in shards.items() for name in members}
                index = {"metadata": {"total_size": total}, "weight_map": where}
                write_json(directory / INDEX, index, indent=2)
            _copy(models[0].directory, directory, CONFIG_FILES)
            _copy(models[tokenizer_from == "instruct"].directory, directory, TOKENIZER_FILES)
            if any({*tie} <= {*names} for model in models for tie in model.tied.items()):
                _untie(directory / "config.json")
            record(directory)

        with Lock(output_dir, beside=True) as lock:
            lock.make()
            check_new(output_dir)  # another process may have made it since
            write_directory(output_dir, write, interruptible=True)


def _check_settings(base: WeightFiles, instruct: WeightFiles, console: Console | None) -> None:
    """Refuse models that compute differently with the same weights; say which settings of INSTRUCT are lost."""
    settings = [model.config.get_text_config().to_dict() for model in (base, instruct)]
    for name in SAME_SETTINGS:
        came = [each.get(name) for each in settings]
        if came[0] != came[1]:
            raise UserError(
                f"instruct: {instruct.model} has {name} {came[1]!r}, expected {came[0]!r} as in {base.model}: only "
                "models of one architecture can be mixed"
            )
    if console is None:
        return
    for name in settings[0].keys() & settings[1].keys() - HARMLESS:
        if settings[0][name] != settings[1][name]:
            console.print(
                f"Note: the result has {name} {settings[0][name]} as in {base.model}, not {settings[1][name]} as in "
                f"{instruct.model}",
                soft_wrap=True,
                markup=False,
                highlight=False,
            )


def _common_names(base: WeightFiles, instruct: WeightFiles) -> list[str]:
    """The names of the tensors to write: those of both models, without the ones that are tied in both.

    Raises:
        UserError: a model has a tensor that the other lacks.
    """
    stated = [{*model.names, *model.tied} for model in (base, instruct)]
    for has, lacks, missing in (
        (base, instruct, sorted(stated[0] - stated[1])),
        (instruct, base, sorted(stated[1] - stated[0])),
    ):
        if missing:
            raise UserError(
                f"{lacks.argument}: {lacks.model} has no {missing[0]}, which {has.model} has ({len(missing)} such "
                "tensors); expected models of one architecture, saved by the same version of transformers"
            )
    ties = [{frozenset(tie) for tie in model.tied.items()} for model in (base, instruct)]
    own = [name for name in base.tied if frozenset((name, base.tied[name])) not in ties[1]]
    return base.names + own


def _check_tensors(base: WeightFiles, instruct: WeightFiles, names: list[str]) -> None:
    """Refuse tensors of different shapes, and whole numbers that differ: there is no mean of them.

    Raises:
        UserError: naming the first such tensor.
    """
    for name in names:
        shapes = [model.shape(name) for model in (base, instruct)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"instruct: {instruct.model}: {name} has shape {shapes[1]}, expected {shapes[0]} as in {base.model}"
            )
        dtypes = [model.dtype(name) for model in (base, instruct)]
        if all(dtype.is_floating_point for dtype in dtypes):
            continue
        if dtypes[0] != dtypes[1] or not all(map(torch.equal, base.pieces(name), instruct.pieces(name))):
            raise UserError(
                f"instruct: {instruct.model}: {name} ({dtypes[1]}) differs from that of {base.model} ({dtypes[0]}), "
                "expected equal ones, since whole numbers are not mixed"
            )


def _plan(base: WeightFiles, names: list[str], max_shard_size: int | str) -> tuple[dict[str, list[str]], int]:
    """Which tensors go into which file, and the bytes of all of them."""
    empty = {name: torch.empty(base.shape(name), dtype=base.dtype(name), device="meta") for name in names}
    try:
        split = split_torch_state_dict_into_shards(empty, max_shard_size=max_shard_size)
    except ValueError as error:
        raise UserError(f"max_shard_size: got {max_shard_size!r}, expected a size such as 5GB or 500MB") from error
    return split.filename_to_tensors, split.metadata["total_size"]


def _mixed(base: WeightFiles, instruct: WeightFiles, name: str, ratio: float, advance: Callable[[int], None]) -> Tensor:
    """One tensor of the result, in the base's type; `advance` is told the bytes that are done."""
    dtype = base.dtype(name)
    result = torch.empty(base.shape(name), dtype=dtype)
    place = result.view(-1)
    done = 0
    for piece in _mixed_pieces(base, instruct, name, ratio):
        place[done : done + piece.numel()] = piece.to(dtype).view(-1)
        done += piece.numel()
        advance(piece.numel() * result.element_size())
    return result


def _mixed_pieces(base: WeightFiles, instruct: WeightFiles, name: str, ratio: float) -> Iterator[Tensor]:
    if ratio == 0 or not base.dtype(name).is_floating_point:
        yield from base.pieces(name)
    elif ratio == 1:
        yield from instruct.pieces(name)
    else:
        wide = torch.promote_types(torch.float32, base.dtype(name))
        for one, other in zip(base.pieces(name), instruct.pieces(name), strict=True):
            # Not (1 - ratio) x one + ratio x other: where both are equal that may be off by a rounding.
            yield torch.lerp(one.to(wide), other.to(wide), ratio)


def _copy(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    for path in {path for pattern in patterns for path in source.glob(pattern) if path.is_file()}:
        shutil.copyfile(path, target / path.name)


def _untie(path: Path) -> None:
    """Say in a configuration that the head is a weight of its own."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            part["tie_word_embeddings"] = False
    write_json(path, config, indent=2)
