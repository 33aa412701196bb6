"""Supervised fine-tuning on the sequences that decoding would have produced."""
