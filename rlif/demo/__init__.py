"""`rlif demo`: the rise and fall of training on confidence, in a few minutes."""
