"""The running batch: a model in this process that answers requests as they come."""
