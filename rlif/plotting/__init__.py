"""`rlif plot`: what several runs did, metric by metric."""
