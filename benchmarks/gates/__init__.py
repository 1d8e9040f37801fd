"""What a change must not make worse: time and memory of the ops, counts of the compiled kernels."""
