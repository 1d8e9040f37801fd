"""RLSF (arXiv 2507.21931): a model ranks its own solutions by its confidence in their answers, and learns the ranking.

The stages, each a file that the next one reads: `sampling.py` (with `spans.py` and `confidence.py`) -> `preferences.py`
-> `training.py` -> `measure.py`. `command.py` runs them; `config.py` has their options and imports no torch.
"""
