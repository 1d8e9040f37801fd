"""The suites of `python -m benchmarks`, one a file: each has `steps(options)`."""
