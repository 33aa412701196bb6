"""What things cost: each `lookagain bench` command compares two ways of doing one thing, side by side in one run."""
