"""Simulated patients: phantoms on real anatomy."""
