"""Cases: how their files are named, listed, checked, loaded and cached."""
