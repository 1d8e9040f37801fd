"""RLSF (arXiv 2507.21931): a model ranks its own completions by its confidence, and learns the ranking.

Each stage writes a file that the next one reads: `sample.py` (with `spans.py` and `confidence.py`) -> `rank.py` ->
`train.py` -> `measure.py`. `command.py` runs them; `options.py` has their options and imports no torch.
"""
