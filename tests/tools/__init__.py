"""Tools of tests and CI, run as modules from the root."""
