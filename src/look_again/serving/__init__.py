"""Serving: one backend interface, two backends, an OpenAI-compatible server and a page before them.

backend: jobs and events. prompt: a job as token ids and pixels. choice: events as text. admission: who waits.
http: from requests to jobs and back. engine: the running batch in this process. vllm: the same before vLLM servers.
"""
