"""The same interface before an unmodified vLLM server."""
