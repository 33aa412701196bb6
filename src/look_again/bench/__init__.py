"""What things cost: each `look-again bench` command compares two ways of doing one thing, side by side in one run."""
