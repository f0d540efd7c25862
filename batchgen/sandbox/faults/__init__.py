"""Fault injection: which faults strike, and when."""
