"""Speed and memory of this package and of its peers, each figure made by a command: see README and NOTES.md."""

import os

# torch reads it when it first allocates: large tensors in the largest pages that the system has. Our CPU kernels ask
# for them for the gradients that they write; without them, clearing small pages would be most of a peer's time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
