"""One module per data set of the paper."""
