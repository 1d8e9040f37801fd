"""The names of the library ops: `torch.ops.rlif.…`, or for a copy of this package under another name, that name's.

PyTorch has one op of a name in a process, the last that was registered. A copy that is loaded beside this package, as
Hugging Face's `kernels` loads one under the id of its build, registers its own.
"""

assert __package__ is not None
NAMESPACE = "rlif" if __package__ == "rlif_kernels" else __package__.replace(".", "_")


def op_name(name: str) -> str:
    """The name under which an op of this package is registered."""
    return f"{NAMESPACE}::{name}"
