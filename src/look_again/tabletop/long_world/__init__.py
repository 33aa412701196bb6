"""The long world of Tabletop: valid work of any length between the image and what is asked of it."""
