"""What a network's stages return, and its weights."""
