"""The No-Free-Lunch lab: the findings of arXiv 2506.17219 on models small enough for a laptop, and how far they hold.

`plan.py` says which trials there are, `trials.py` runs them, `findings.py` says what came of them, `figures.py` and
`report.py` show it.
"""
