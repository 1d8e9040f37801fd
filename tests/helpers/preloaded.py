"""What processes of the tests are forked from: one server for each test worker, which imports what any of them needs.

multiprocessing has one server in a process, and it imports what whoever asks first wants. Were that a benchmark, which
needs little, each of hundreds of commands would import transformers anew, and that takes longer than the command.
"""

from __future__ import annotations

from multiprocessing import forkserver

from rlif.cli import COMMANDS

# What the commands import as they go.
LATER = (
    "datasets",
    "datasets.packaged_modules.json.json",
    "matplotlib.backends.backend_agg",
    "peft",
    "PIL.PngImagePlugin",
    "rich._emoji_codes",
    "sklearn.isotonic",
    "torch.optim.adamw",
    "transformers.models.qwen3.modeling_qwen3",
    "typeguard",
    "tyro",
    "tyro._backends._tyro_backend",
)
PRELOADED = [
    "benchmarks.ops.implementations",
    "rlif_kernels.backends.c.build",
    *(f"{package}.command" for package, _ in COMMANDS.values()),
    *LATER,
]


def preload() -> None:
    """See to it that the server imports these, whoever asks for a process first."""
    forkserver.set_forkserver_preload(PRELOADED)
    forkserver.set_forkserver_preload = lambda names, **options: None
