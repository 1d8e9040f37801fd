"""Options that commands share. Loads no torch."""

from __future__ import annotations

from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


Dtype = Literal["float32", "bfloat16"]
