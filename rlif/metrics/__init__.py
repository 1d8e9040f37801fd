"""Numbers about scores and samples: calibration, selection, intervals, repetition. NumPy and scikit-learn, no torch."""
