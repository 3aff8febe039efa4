"""Initio inside other people's tools and training loops."""
