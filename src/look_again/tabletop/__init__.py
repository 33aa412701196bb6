"""Tabletop: a small world of rendered scenes with exact answers, so that everything runs and is checked offline."""
