"""Exact rewrites of modules and of source."""
