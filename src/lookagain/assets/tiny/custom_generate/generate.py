"""Decoding with visual re-attention; needs lookagain-vlm."""

from lookagain.hub import generate
