"""What a run of the data engine remembers."""
