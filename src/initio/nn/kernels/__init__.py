"""Compiled kernels of the layers, built on first use and never at import."""
