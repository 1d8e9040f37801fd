"""`rlif eval`: what a model's samples are worth, and what its confidence in them says."""
