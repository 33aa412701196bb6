"""What the pages share: who is let in, and how sections look."""
