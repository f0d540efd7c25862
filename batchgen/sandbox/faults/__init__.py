"""Fault injection: which faults there are, when each is injected, and what it does. Loaded only with `--faults`."""
