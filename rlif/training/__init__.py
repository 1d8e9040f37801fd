"""`rlif train`: the loop, the guard, and everything around a run."""
