"""What the loss, a step, inference and loading cost."""
