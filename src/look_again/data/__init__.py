"""Samples of questions, images and responses: their shapes on disk, their sources and their checks."""
