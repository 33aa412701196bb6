"""The decode step as a graph, compiled once per number of sequences."""
