"""Tabletop as people meet it: their wordings, questions and images of their own, in training and as a benchmark."""
