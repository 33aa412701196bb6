"""Rows of questions, images and responses: their shapes on disk, where they come from, and whether they are sound."""
