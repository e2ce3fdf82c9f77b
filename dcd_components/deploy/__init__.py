"""Networks in other runtimes."""
