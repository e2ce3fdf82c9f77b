"""Scores of a segmented case, in mm."""
