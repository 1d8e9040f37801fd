"""Everything that needs a GPU, in one command and within the minutes given."""

import importlib.util
import sys
from pathlib import Path

# A checkout on a machine where nothing can be installed: `kernels/` is a source root, as in pyproject.toml.
if importlib.util.find_spec("rlif_kernels") is None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "kernels"))
