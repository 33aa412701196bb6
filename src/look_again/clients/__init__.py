"""Clients of the protocols that models are served by."""
