"""The kernel, in tensors: slots, re-attention, the cache, forward passes and the decoding loop."""
