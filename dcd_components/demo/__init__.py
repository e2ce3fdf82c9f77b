"""The whole story in minutes."""
