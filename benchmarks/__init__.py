"""Speed and memory of this package and of its peers, each figure made by a command: see README and NOTES.md."""

import getpass
import os
import tempfile

# torch reads it when it first allocates: large tensors in the largest pages that the system has. Our CPU kernels ask
# for them for the gradients that they write; without them, clearing small pages would be most of a peer's time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# The key of torch.compile's cache names no instruction set (torch 2.13): code written for another one would be run.
if level := os.environ.get("ATEN_CPU_CAPABILITY"):
    own = f"torchinductor_{getpass.getuser()}_{level}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), own))
