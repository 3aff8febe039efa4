"""Closed forms and their numeric verification."""
