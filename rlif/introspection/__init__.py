"""`rlif introspect`: a model learns to improve on its own attempts, turn by turn (RISE, arXiv 2407.18219)."""
