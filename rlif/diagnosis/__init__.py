"""`rlif diagnose`: whether a reward is likely to help a model, before any training."""
