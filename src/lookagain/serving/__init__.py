"""Serving: one backend interface, two backends, an OpenAI-compatible server and a page.

backend: what a backend is asked and what it answers with. prompts: a conversation as a backend's input.
"""
