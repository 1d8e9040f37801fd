"""The options of `rlif mix`. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rlif.errors import UserError
from rlif.options.checks import Share, check, check_value
from rlif.options.fields import Formerly
from rlif.options.groups import WeightFileOptions
from rlif.options.record import check_new

TokenizerFrom = Literal["base", "instruct"]


@dataclass(kw_only=True)
class MixConfig(WeightFileOptions):
    """Mix the weights of two models of one architecture: (1 - ratio) x BASE + ratio x INSTRUCT.

    Computed tensor by tensor in float32 and rounded once to BASE's type, so that neither model is ever in memory.
    It takes about twice the size of one file of weights, which --max-shard-size bounds.
    """

    base: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")]
    """Model directory or Hugging Face hub id; the result has its config.json."""

    instruct: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="INSTRUCT")]
    """Model directory or hub id, usually of a model that was tuned from the base."""

    ratio: tuple[Share, ...]
    """Share of INSTRUCT, from 0 to 1; several make several models."""

    output_dir: Annotated[Path, Formerly("output")]
    """New directory for the model; with several ratios, of a directory ratio-R for each."""

    tokenizer_from: TokenizerFrom = "base"
    """Whose tokenizer, chat template and generation_config.json the result gets."""

    def validate(self) -> None:
        """Check every value that can be checked without opening a file.

        Raises:
            UserError: naming the first argument that is wrong, what came and what was expected.
        """
        check(self)
        if not self.ratio:
            raise UserError("ratio: got none, expected at least one number from 0 to 1")
        if len(set(self.outputs())) < len(self.ratio):
            raise UserError(f"ratio: got {' '.join(map(str, self.ratio))}, expected each once")
        for output in self.outputs():
            check_new(output)

    def outputs(self) -> list[Path]:
        """Return the directory of each ratio."""
        output = self.output_dir.expanduser()
        return [output] if len(self.ratio) == 1 else [output / f"ratio-{ratio:g}" for ratio in self.ratio]


def check_ratio(ratio: float) -> None:
    """Hold one ratio to its bounds."""
    check_value("ratio", ratio, Share)
