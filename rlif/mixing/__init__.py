"""`rlif mix`: the weighted mean of two models' weights."""
