"""Rows of questions, pictures and responses: their shapes on disk, where they come from, and whether they are sound."""
