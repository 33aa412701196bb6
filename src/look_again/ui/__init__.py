"""The page of `look-again ui`: ask, watch the answer come, and see what each of its words looked at.

question: what is asked. transcript: an answer while it comes. runs: answers of one window. answer_html, snippets: what
is shown. looks: what the tokens looked at. page, app: Gradio and the web.
"""
