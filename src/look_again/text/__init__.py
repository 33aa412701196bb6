"""Strings and token ids: the response format, its tags, prompts."""
