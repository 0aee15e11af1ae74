"""One small portal under every server that one might have chosen, for `python -m loadtests.matrix`."""
