"""Re-attention without a prefill: what was cached of the images, moved to where it is put back."""
