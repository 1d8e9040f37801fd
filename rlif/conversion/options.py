"""The options of `rlif convert`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rlif.options.checks import check
from rlif.options.fields import Formerly
from rlif.options.groups import Dtype, WeightFileOptions
from rlif.options.record import check_new


@dataclass(kw_only=True)
class ConvertConfig(WeightFileOptions):
    """Write a GGUF file, or a LoRA adapter merged into its model, as a directory that transformers loads.

    Tokenizer, chat template and end tokens come along. The model that was written is read again, and must give the
    same logits to the bit.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A GGUF file, a directory with one, a directory with a LoRA adapter, or whatever else --model takes."""

    output_dir: Annotated[Path, Formerly("output")]
    """New directory for the model."""

    dtype: Dtype = "float32"
    """Data type of the weights that are written. Packed weights are unpacked in float32, and rounded once."""

    trust_remote_code: bool = False
    """Run the Python code that comes with the model, where transformers has no such model or tokenizer of its own.
    It can do anything that you can: read it first. Off: such a model is refused."""

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        check(self)
        check_new(self.output_dir.expanduser())
