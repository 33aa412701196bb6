"""Clips of Tabletop: short videos in which objects move, with exact questions."""
