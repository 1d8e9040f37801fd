"""`rlif explain`: what a training really rewarded, read off the model before it and the model after it."""
