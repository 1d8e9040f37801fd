"""Options that commands share, their checks, and YAML files of them. Loads no torch."""
