"""`rlif retry`: a discriminator accepts an attempt, or rejects it into the next context (DRR, arXiv 2501.01457)."""
