"""Serving: one backend interface, two backends, an OpenAI-compatible server and a page.

backend: what a backend is asked and what it answers with. prompts: a conversation as a backend's input.
The server, from the outside in: running (the process), access, app (routes), exchange (one request), service (what they
share); schema, fields, choosing, conversation, images, fetching (what is asked); choice, answering, payloads (what
is said); errors, limits, admission, wire, metrics.
"""
