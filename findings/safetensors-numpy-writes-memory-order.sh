#!/usr/bin/env bash
# One would guess: what safetensors.numpy saves, it loads again; an array that it cannot write it refuses, as safetensors.torch
# refuses a tensor that is not contiguous.
# What happens in safetensors 0.8.0: of an array that is not in C order, as weight.T or a matrix in Fortran's order, the
# values are written in the order in which they lie in memory, under the array's own shape. Nothing is raised or printed,
# and the file is valid. A transposed matrix, or one in Fortran's order, is loaded with the right shape, dtype, sum and
# histogram and its values in other places; of every second column the first half of the whole matrix is loaded. save
# (to bytes) and save_file do so alike, while an array of foreign byte order is right. 0.7.0 wrote all of these
# correctly, so that code that worked with it now writes other weights. The docstring asks for arrays that are "contiguous
# and dense", which a matrix in Fortran's order is by NumPy's flags. np.ascontiguousarray is needed before each save.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for version in 0.7.0 0.8.0; do
    python3 -m pip install --quiet --no-compile --target "$work/$version" numpy==2.4.6 "safetensors==$version" 2>/dev/null
done
cat > "$work/look.py" <<'PY'
import sys
import tempfile
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load, load_file, save, save_file

matrix = np.arange(24, dtype=np.float32).reshape(4, 6)
arrays = {
    "in C order": matrix,
    "of foreign byte order": matrix.astype(matrix.dtype.newbyteorder()),
    "transposed": matrix.T,
    "in Fortran's order": np.asfortranarray(matrix),
    "every second column": matrix[:, ::2],
    "transposed, then ascontiguousarray": np.ascontiguousarray(matrix.T),
}
wrong = []
print("safetensors", safetensors.__version__, "numpy", np.__version__)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "weights.safetensors"
    for name, array in arrays.items():
        save_file({"weight": array}, path)
        loaded = load_file(path)["weight"]
        assert loaded.shape == array.shape and np.array_equal(loaded, load(save({"weight": array}))["weight"])
        right = np.array_equal(loaded, array)
        sorted_too = np.array_equal(np.sort(loaded, None), np.sort(array, None))
        print(f"{name}: saved and loaded it is equal: {right}, sorted values are: {sorted_too}")
        if not right:
            wrong.append(name)
            print("  first row", array[0].tolist(), "is loaded as", loaded[0].tolist())
if wrong != (["transposed", "in Fortran's order", "every second column"] if sys.argv[1] == "wrong" else []):
    sys.exit("changed: see the lines above")
PY
PYTHONPATH="$work/0.7.0" python3 "$work/look.py" right
PYTHONPATH="$work/0.8.0" python3 "$work/look.py" wrong
