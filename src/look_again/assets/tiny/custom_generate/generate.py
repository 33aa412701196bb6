"""Decoding with visual re-attention; needs look-again-vlm."""

from look_again.hub import generate
