"""Decoding with visual re-attention; needs lookagain-vlm."""
