"""The stages over many workers and nodes."""
