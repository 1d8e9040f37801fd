"""`rlif convert`: whatever stands for a model as a directory that transformers loads."""
