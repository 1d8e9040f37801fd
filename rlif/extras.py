"""What the extra `train` brings: without it only the kernels can be used, and whoever asks for more is told so."""

from __future__ import annotations

# The modules of its packages, by the names under which they are imported; torch brings mpmath and jinja2 as well.
TRAIN = frozenset(
    {"accelerate", "datasets", "huggingface_hub", "math_verify", "matplotlib", "numpy", "packaging", "peft"}
    | {"platformdirs", "rich", "safetensors", "sklearn", "tokenizers", "transformers", "tyro", "yaml"}
)


def advice(error: ModuleNotFoundError) -> str | None:
    """What to do about a module that is missing; None if the extra does not bring it."""
    module = (error.name or "").partition(".")[0]
    if module not in TRAIN:
        return None
    return f"rlif was installed without its extra `train`: there is no module {module}; pip install 'rlif[train]'"
