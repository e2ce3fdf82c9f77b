"""The check of every file of a data list."""
