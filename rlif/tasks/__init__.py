"""Tasks that need no download: problems, a teacher who errs, and small models trained on his solutions."""
