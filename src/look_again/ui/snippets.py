"""What was asked on the page as code: this package's API, the openai client, curl.

The two that talk to a server name its usual address (`look-again serve`). Every text is quoted by the rules of the
language that it stands in, so that a question means the same there.
"""

from __future__ import annotations

import json
from typing import Any

from look_again.core.reattention import Reattention
from look_again.images.video import Video
from look_again.model import Sampling
from look_again.ui.question import UserQuestion
from look_again.web.section_cards import escape

SERVER = "http://127.0.0.1:8300/v1"
IMAGE, VIDEO = "picture.png", "video.mp4"
NAMES = {"python": "Python", "openai": "openai client", "curl": "curl"}


def snippets(question: UserQuestion, policy: Reattention, model: str | None) -> dict[str, str]:
    """Code by kind; model: as `load` and the server know it, None for the shipped one."""
    return {
        "python": python_code(question, policy, model),
        "openai": openai_code(question, policy, model),
        "curl": curl_code(question, policy, model),
    }


def python_code(question: UserQuestion, policy: Reattention, model: str | None) -> str:
    """The question by this package's own API."""
    named = repr(model) if model else ""
    video = isinstance(question.image, Video)
    images = f'"{IMAGE}"' if question.image and not video else "[]"
    options = ", ".join(f"{name.replace('reattention', 'mode')}={value!r}" for name, value in _extra(policy).items())
    return (
        "import look_again\n\n"
        f"model = look_again.load({named})\n"
        "answer = model.ask(\n"
        f"    {images},\n"
        f"    {question.text!r},\n"
        f"{f'    video={VIDEO!r},{chr(10)}' if video else ''}"
        f"    reattention=look_again.Reattention({options}),\n"
        f"    sampling=look_again.Sampling({_sampling(question.sampling)}),\n"
        ")\n"
        "print(answer.answer)\n"
        "print(answer.response)\n"
    )


def openai_code(question: UserQuestion, policy: Reattention, model: str | None) -> str:
    """The question by the openai client, to `look-again serve`."""
    file, media = _named_file(question)
    image = f'image = base64.b64encode(Path("{file}").read_bytes()).decode()\n' if question.image else ""
    kind = media.split("/")[0]
    part = f'            {{"type": "{kind}_url", "{kind}_url": {{"url": f"data:{media};base64,{{image}}"}}}},\n'
    options = [f"    {name}={value},\n" for name, value in _options(question.sampling).items()]
    imports = "import base64\nfrom pathlib import Path\n\n" if question.image else ""
    return (
        f"{imports}from openai import OpenAI\n\n"
        f'{image}client = OpenAI(base_url="{SERVER}", api_key="none")\n'
        "completion = client.chat.completions.create(\n"
        f"    model={_served(model)!r},\n"
        '    messages=[\n        {"role": "user", "content": [\n'
        f"{part if question.image else ''}"
        f'            {{"type": "text", "text": {question.text!r}}},\n'
        "        ]},\n    ],\n"
        f"{''.join(options)}"
        f'    extra_body={{"look_again": {json.dumps(_extra(policy))}}},\n'
        ")\n"
        "print(completion.choices[0].message.content)\n"
    )


def curl_code(question: UserQuestion, policy: Reattention, model: str | None) -> str:
    """The question by curl; the body is a here-document, so that an image of any size fits."""
    marker, (file, media) = "@PICTURE@", _named_file(question)
    kind = media.split("/")[0]
    content: list[dict[str, Any]] = [{"type": "text", "text": question.text}]
    if question.image:
        content.insert(0, {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{media};base64,{marker}"}})
    body = {
        "model": _served(model),
        "messages": [{"role": "user", "content": content}],
        **_options(question.sampling),
        "look_again": _extra(policy),
    }
    quoted = shell_text(json.dumps(body, indent=1, ensure_ascii=True))
    if question.image:
        quoted = quoted.replace(marker, f"$(base64 < {file} | tr -d '\\n')", 1)
    return f"curl {SERVER}/chat/completions -H 'Content-Type: application/json' --data-binary @- <<END\n{quoted}\nEND\n"


def _named_file(question: UserQuestion) -> tuple[str, str]:
    """What a snippet calls the file that was asked about, and its media type."""
    return (VIDEO, "video/mp4") if isinstance(question.image, Video) else (IMAGE, "image/png")


def code_html(question: UserQuestion, policy: Reattention, model: str | None) -> str:
    """The snippets, folded away."""
    sections = "".join(
        f'<div class="la-snippet"><div class="la-snippet-head"><b>{NAMES[kind]}</b>'
        f'<button type="button" class="la-copy">copy</button></div><pre tabindex="0">{escape(code)}</pre></div>'
        for kind, code in snippets(question, policy, model).items()
    )
    return f'<details class="la-code"><summary>as code</summary>{sections}</details>'


def shell_text(text: str) -> str:
    """A text inside of a here-document whose end is not quoted."""
    return text.replace("\\", "\\\\").replace("$", "\\$").replace("`", "\\`")


def _sampling(sampling: Sampling) -> str:
    options: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens}
    if sampling.temperature:
        options |= {"temperature": sampling.temperature} | ({} if sampling.seed is None else {"seed": sampling.seed})
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _options(sampling: Sampling) -> dict[str, Any]:
    """Sampling as an OpenAI request says it."""
    options: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
    if sampling.temperature and sampling.seed is not None:
        options["seed"] = sampling.seed
    return options


def _extra(policy: Reattention) -> dict[str, Any]:
    """What is not a default, by the names of a request."""
    layout = {"layout": policy.layout} if policy.layout != "grid" else {}
    return {"reattention": policy.mode} | ({"keep": policy.keep} | layout if policy.mode == "route" else {})


def _served(model: str | None) -> str:
    """How a server names a model."""
    return model or "tabletop-tiny"
