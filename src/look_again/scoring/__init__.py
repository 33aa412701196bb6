"""When an answer is right, and how sure one can be of a score."""
