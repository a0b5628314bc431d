"""Machines: what a target is, how to link for it and how to run something on it."""
