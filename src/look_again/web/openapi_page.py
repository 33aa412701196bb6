"""The interface as a page to read: paths and the fields of their bodies, out of the OpenAPI description.

One page of plain HTML; a viewer of the description itself would load scripts from elsewhere.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from look_again.style import html_document


def build_docs_page(description: dict[str, Any]) -> str:
    """HTML of an OpenAPI description."""
    lines = ["<p>As <a href=openapi.json>OpenAPI</a>. Fields are those of OpenAI's interface and of vLLM's.</p>"]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            lines.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            lines.append(f"<p>{html.escape(operation.get('description', ''))}</p>")
            lines += _list_fields(description, operation)
    return html_document(description["info"]["title"], "\n".join(lines))


def _list_fields(description: dict[str, Any], operation: dict[str, Any]) -> Iterator[str]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return
    schema = description["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    yield f"<p>{html.escape(schema.get('description', ''))}</p><table>"
    for name, field in schema["properties"].items():
        needed = "required" if name in schema.get("required", ()) else ""
        cells = (f"<code>{html.escape(name)}</code>", html.escape(_name_type(field)), needed)
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</table>"


def _name_type(field: dict[str, Any]) -> str:
    """A short name of what a field takes."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_name_type(one) for one in field["anyOf"] if one.get("type") != "null"))
    if "enum" in field or "const" in field:
        return ", ".join(map(str, field.get("enum", [field.get("const")])))
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    return str(field.get("type", "any"))
