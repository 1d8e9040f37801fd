"""Whole steps of training, sampling and self-feedback, ours and TRL's, and the demonstration."""
