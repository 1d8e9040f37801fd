"""`rlif convert`: read a model from wherever it is, and write a directory that transformers loads."""

from __future__ import annotations

from functools import partial

from rlif.conversion.convert import convert
from rlif.conversion.options import ConvertConfig
from rlif.options.record import write_record
from rlif.terminal import make_console


def run(config: ConvertConfig) -> None:
    """Convert the model, and print where it is.

    Raises:
        UserError: bad input, before any work starts; or an output that cannot be written.
    """
    config.validate()
    output_dir = config.output_dir.expanduser()
    convert(
        config.model,
        output_dir,
        dtype=config.dtype,
        max_shard_size=config.max_shard_size,
        trust_remote_code=config.trust_remote_code,
        console=make_console(errors=True),
        record=partial(write_record, config=config),
    )
    print(f"{config.model} as {config.dtype} weights: {output_dir}")
