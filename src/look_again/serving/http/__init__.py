"""The OpenAI-compatible server. A chat completion passes, from the outside in:

server_process and api_guard (who may talk), routes, chat_completion (the whole of one response), body (its bytes),
schema (its fields), service with chat_jobs, image_parts and image_fetching (jobs for a backend), payloads (what goes
out). errors, limits and metrics are used by all of them.
"""
