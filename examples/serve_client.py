"""Ask a running `look-again serve` about a picture with the official client, and watch it look again.

look-again serve & python examples/serve_client.py
"""

import base64
import os
import sys
from pathlib import Path

from openai import OpenAI

HERE = Path(__file__).parent
image = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "table.png"
question = sys.argv[2] if len(sys.argv) > 2 else "How many cubes are there? Answer briefly."

client = OpenAI(
    base_url=os.environ.get("LOOK_AGAIN_URL", "http://127.0.0.1:8300/v1"),
    api_key=os.environ.get("LOOK_AGAIN_API_KEY", "none"),
)
model = client.models.list().data[0].id
url = f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
stream = client.chat.completions.create(
    model=model,
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": question},
            ],
        }
    ],
    stream=True,
    stream_options={"include_usage": True},
    extra_body={"look_again": {"reattention": "route", "keep": 25}},  # or model=f"{model}:route-25"
)

answer = ""
for chunk in stream:
    report = getattr(chunk, "look_again", None) or {}
    if "notes" not in report:  # the last chunk repeats them all
        for look in report.get("reflections", []):
            print(f"\n  looks again: {look['reinserted_tokens']} visual tokens put back")
    for choice in chunk.choices:
        print(getattr(choice.delta, "reasoning_content", None) or "", end="", flush=True)
        answer += choice.delta.content or ""
    if chunk.usage:
        print(f"\n\n{answer}\n\n{chunk.usage.completion_tokens} tokens sampled, {chunk.usage.look_again}")
