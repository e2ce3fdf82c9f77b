"""Bundles: their configs, new ones, and releases."""
