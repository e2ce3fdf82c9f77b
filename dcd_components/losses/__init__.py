"""Losses of a training: one a file."""
