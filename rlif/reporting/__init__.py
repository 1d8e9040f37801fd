"""`rlif report`: what a run or a lab did, as one page."""
