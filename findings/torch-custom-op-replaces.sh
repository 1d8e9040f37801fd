#!/usr/bin/env bash
# One would guess: to register a second library op (torch.library.custom_op) under a name that is taken is an error, as
# torch.library.define makes it one.
# What happens in torch 2.13.0: the second takes the first one's place, without a word. The object that the first
# registration returned computes what the second registered, and so does torch.ops. Two versions of a package in one process,
# such as a kernel of the Hugging Face Hub beside the installed package that it was made from, then both compute
# what was loaded last; a name of its own for each copy (the module's, for instance) keeps them apart.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.0 torch==2.13.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import sys
import warnings

import torch


def register(number: float):
    def add(x: torch.Tensor) -> torch.Tensor:
        return x + number

    return torch.library.custom_op("finding::add", add, mutates_args=())


print("torch", torch.__version__)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    first = register(1)
    before = first(torch.zeros(())).item()
    second = register(2)
after, by_name = first(torch.zeros(())).item(), torch.ops.finding.add(torch.zeros(())).item()
print(f"the first op: {before:g}; after a second registration: {after:g}, by its name {by_name:g}, warnings: {len(told)}")
refused = False
torch.library.define("finding::other", "(Tensor x) -> Tensor")
try:
    torch.library.define("finding::other", "(Tensor x) -> Tensor")
except RuntimeError as error:
    refused = "multiple times" in str(error)
print("torch.library.define refuses a second time:", refused)
as_stated = (before, after, by_name, len(told), refused) == (1, 2, 2, 0, True)
print("as stated" if as_stated else "not as stated any more")
sys.exit(not as_stated)
PY
"$work/venv/bin/python" "$work/look.py"
