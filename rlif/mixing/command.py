"""`rlif mix`: models between a base model and one that was tuned from it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from rlif.mixing.mix import mix
from rlif.mixing.options import MixConfig
from rlif.options.record import write_record
from rlif.terminal import make_console


def run(config: MixConfig) -> None:
    """Make the mixed models, and print where they are.

    Raises:
        UserError: bad input, before any work starts; or an output that cannot be written.
    """
    config.validate()
    console = make_console(errors=True)
    done: list[str] = []
    for ratio, output in zip(config.ratio, config.outputs(), strict=True):
        try:
            mix(
                config.base,
                config.instruct,
                ratio,
                output,
                tokenizer_from=config.tokenizer_from,
                max_shard_size=config.max_shard_size,
                console=console,
                record=partial(write_record, config=replace(config, ratio=(ratio,))),
            )
        except KeyboardInterrupt:
            if not done:
                raise
            raise KeyboardInterrupt(f"interrupted at ratio {ratio:g}; whole are {', '.join(done)}") from None
        done.append(str(output))
        print(f"{ratio:g} of {config.instruct} in {config.base}: {output}")
