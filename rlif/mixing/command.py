"""`rlif mix`: what runs."""

from __future__ import annotations

from rich.console import Console

from rlif.mixing.options import MixConfig


def run_mix(config: MixConfig) -> None:
    """`rlif mix`: make the mixed models, and print where they are.

    Raises:
        UserError: bad input, before any work starts; or an output that cannot be written.
    """
    config.validate()
    from rlif.mixing.mix import mix

    console = Console(stderr=True)
    for ratio, output in zip(config.ratio, config.outputs(), strict=True):
        mix(
            config.base,
            config.instruct,
            ratio,
            output,
            tokenizer_from=config.tokenizer_from,
            max_shard_size=config.max_shard_size,
            console=console,
        )
        print(f"{ratio:g} of {config.instruct} in {config.base}: {output}")
