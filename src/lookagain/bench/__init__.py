"""Measurements of cost: each command of `lookagain bench` compares two ways of doing one thing, side by side in one run."""
