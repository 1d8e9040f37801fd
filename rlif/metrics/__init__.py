"""Numbers about scores and samples: calibration, selection, intervals, repetition. NumPy only."""
