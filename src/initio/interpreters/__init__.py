"""Readings of a record: propagation, sampling, comparison."""
