"""The page of `look-again ui`: ask, watch the answer come, and see what each of its words looked at.

question: the question of the page's fields. transcript: an answer while it comes. runs: answers of one window.
answer_html, snippets: HTML. attention_maps: the attention of each token. kept_answers: what can still be measured.
workspace: the state behind the page. page, app: Gradio and the web.
"""
