"""Rows under review as Label Studio's JSON, and the decisions that come back from it.

A task carries the row, its sample and the hash of what is shown, so that a decision about an answer that has changed
since is refused. Images are inside the file, as data URLs: nothing has to be hosted. A decision that comes back goes
through the same checks as one on the page. The paper names no tool for its people; this one is widely used.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from look_again.data.encoded_images import sendable
from look_again.data.fields import short
from look_again.data.sample import Sample
from look_again.images import ImageError
from look_again.pipeline.ledger.items import PAGE
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.review.decisions import ACTIONS, NAME, Decision, ReviewError, decide, shown_item, standing
from look_again.pipeline.review.item_html import MAX_PIXELS, question_html, verdicts_html
from look_again.pipeline.review.response_text import sections_html
from look_again.pipeline.review.session import ItemView, load_view
from look_again.text.unicode import storable

DECISION, RESPONSE, NOTE, SHOWN = "decision", "response", "note", "shown"  # names in the labelling interface
COLOURS = {"summary": "#3b82f6", "caption": "#10966e", "reasoning": "#d97706", "reflection": "#9333ea",
           "conclusion": "#dc265a", "outside": "#dc2626"}  # fmt: skip
STYLE = ".la-section{border-left:5px solid #888;padding:2px 10px;margin:4px 0;white-space:pre-wrap}" + "".join(
    f".la-{name}{{border-color:{colour}}}" for name, colour in COLOURS.items()
)
INTERFACE = f"""<View>
  <View style="display: flex; gap: 1em">
    <View style="flex: 2"><Image name="picture" valueList="$pictures"/></View>
    <View style="flex: 3"><HyperText name="{SHOWN}" value="$html" selectionEnabled="false"/></View>
  </View>
  <Choices name="{DECISION}" toName="{SHOWN}" choice="single" required="true" showInline="true">
    <Choice value="accept" hotkey="a"/><Choice value="reject" hotkey="r"/><Choice value="edit" hotkey="e"/>
  </Choices>
  <TextArea name="{RESPONSE}" toName="{SHOWN}" value="$response" rows="16" maxSubmissions="1" editable="true"/>
  <TextArea name="{NOTE}" toName="{SHOWN}" rows="1" maxSubmissions="1" placeholder="note"/>
</View>
"""


class LabelStudioError(ValueError):
    """A file that is not Label Studio's JSON export of such tasks."""


def export(ledger: Ledger, path: Path, *, only_open: bool = False) -> dict[str, Any]:
    """Write the rows under review as tasks, decided ones with their annotation, and beside them the interface (.xml).

    Rows stream into the file, which appears when it is whole. Returns how many tasks, and how many of them decided.
    """
    draft, interface = path.with_name(f"{path.name}.part"), path.with_suffix(".xml")
    summary: dict[str, Any] = {"tasks": 0, "decided": 0, "interface": str(interface)}
    with draft.open("w", encoding="utf-8") as file:
        for view in _views(ledger):
            if only_open and view.decision is not None:
                continue
            file.write(",\n" if summary["tasks"] else "[\n")
            file.write(json.dumps(build_task(view), ensure_ascii=False))
            summary["tasks"] += 1
            summary["decided"] += view.decision is not None
        file.write("\n]\n" if summary["tasks"] else "[]\n")
    draft.replace(path)
    interface.write_text(INTERFACE, encoding="utf-8")
    return summary


def build_task(view: ItemView) -> dict[str, Any]:
    """One task; a decision that stands becomes its annotation."""
    item = view.item
    data = {
        "row": item.row.id, "n": item.n, "sample": item.sample, "input": item.input,
        "question": item.row.prompt, "reference": item.row.reference, "response": item.response or "",
        "verdicts": (view.panel or {}).get("verdicts", []), "pictures": _images(item.row),
        "html": f"<style>{STYLE}</style>{question_html(item.row)}{sections_html(item.response)}{verdicts_html(view)}",
    }  # fmt: skip
    return {"data": data, "annotations": [_annotation(view.decision)] if view.decision else []}


def read_back(ledger: Ledger, path: Path, reviewer: str | None = None) -> dict[str, Any]:
    """Take over the decisions in an export.

    reviewer: whose they are, None for whoever Label Studio names. Returns counts of those taken, known (they stand
    already) and open, and the refused ones with the reason: never a lost one. Read again, it takes nothing twice.
    Raises LabelStudioError for a file that is no such export, LedgerFullError when the disk is full.
    """
    summary: dict[str, Any] = {"taken": 0, "known": 0, "open": 0, "refused": []}
    for task in _tasks(path):
        try:
            summary[_take(ledger, task, reviewer)] += 1
        except ReviewError as error:
            summary["refused"].append({"row": str(task["data"].get("row")), "reason": str(error)})
    return summary


def _take(ledger: Ledger, task: Mapping[str, Any], reviewer: str | None) -> str:
    """ "taken", "known" or "open". ReviewError for a decision that cannot be taken over."""
    annotated = read_decision(task)
    if annotated is None:
        return "open"
    action, response, note, person = annotated
    data = task["data"]
    item = replace(shown_item(ledger, data["n"], data["sample"]), input=data["input"])
    if item.row.id != data["row"]:
        raise ReviewError(f"the task is about {data['row']!r}, this run's row {item.n} is {item.row.id!r}")
    same = response is None or response.strip() == (item.response or "").strip()  # a text area may cut off blanks
    if action == "edit" and same:
        raise ReviewError("an edit that changes nothing")
    if action == "accept" and not same:
        raise ReviewError("accepted, but the response was changed: choose edit")
    edited = response if action == "edit" else None
    before = standing(ledger, item.n, item.sample, item.input)
    if before is not None and (before.action, before.response) == (action, edited):
        return "known"
    decide(ledger, item, reviewer or person, action, response=edited, note=note)
    return "taken"


def read_decision(task: Mapping[str, Any]) -> tuple[str, str | None, str, str] | None:
    """A task's decision as action, response in the editor, note and reviewer; None where nobody took one.

    ReviewError when people disagree, for an annotation without decision, and for values of other types.
    """
    entries = task.get("annotations") or []
    if not isinstance(entries, list):
        raise ReviewError(f"annotations are {short(entries)}: a list is needed")
    for entry in entries:
        if not isinstance(entry, dict):
            raise ReviewError(f"an annotation is {short(entry)}: an object is needed")
    annotated = [_read(entry) for entry in entries if not entry.get("was_cancelled")]
    if len({decision[:2] for decision in annotated}) > 1:
        raise ReviewError(f"{len(annotated)} annotations that differ: keep one of them")
    return annotated[-1] if annotated else None


def _read(annotation: Mapping[str, Any]) -> tuple[str, str | None, str, str]:
    given = annotation.get("result")
    parts = [part for part in given if isinstance(part, dict)] if isinstance(given, list) else []
    results = {part["from_name"]: part for part in parts if isinstance(part.get("from_name"), str)}
    chosen = _value(results.get(DECISION), "choices")
    if chosen not in ACTIONS:
        raise ReviewError(f"the annotation holds no decision, but {short(chosen)}: choose one of {', '.join(ACTIONS)}")
    response = _value(results.get(RESPONSE), "text")
    if chosen == "edit" and response is None:
        raise ReviewError("an edit without a response")
    note = _value(results.get(NOTE), "text") or ""
    person = _value({"value": results[DECISION].get("meta")}, "text") or _person(annotation.get("completed_by"))
    if any(storable(text) != text for text in (response or "", note, person)):
        raise ReviewError("the decision holds characters that no file can hold: write them again")
    return chosen, response, note, person


def _value(part: Mapping[str, Any] | None, name: str) -> str | None:
    """A control's only value; several texts of a text area are its lines."""
    values = (part or {}).get("value")
    value = values.get(name) if isinstance(values, dict) else None
    lines = value if isinstance(value, list) else [value]
    texts = [line for line in lines if isinstance(line, str)]
    return "\n".join(texts).replace("\r\n", "\n") or None if len(texts) == len(lines) else None


def _person(completed_by: Any) -> str:
    """Label Studio's name of whoever annotated: an e-mail address, else the number of an account."""
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("id")
    known = isinstance(completed_by, str | int) and completed_by
    return (
        completed_by
        if isinstance(completed_by, str) and known
        else f"label-studio-{completed_by if known else 'unknown'}"
    )


def _annotation(decision: Decision) -> dict[str, Any]:
    """A decision as Label Studio keeps one. The reviewer is a remark: accounts differ from server to server."""
    parts: list[tuple[str, str, dict[str, Any]]] = [(DECISION, "choices", {"choices": [decision.action]})]
    if decision.response is not None:
        parts.append((RESPONSE, "textarea", {"text": [decision.response]}))
    if decision.note:
        parts.append((NOTE, "textarea", {"text": [decision.note]}))
    results = [
        {"id": f"{decision.hash[:8]}{i}", "from_name": name, "to_name": SHOWN, "type": kind, "value": value}
        for i, (name, kind, value) in enumerate(parts)
    ]
    results[0]["meta"] = {"text": [decision.reviewer]}
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(decision.at))
    return {"result": results, "was_cancelled": False, "created_at": when}


def _views(ledger: Ledger) -> Iterator[ItemView]:
    """The rows under review, in order."""
    at = (-1, -1)
    page = (
        "SELECT n, sample FROM results WHERE stage = ? AND output LIKE '%\"shown\"%' AND (n, sample) > (?, ?) "
        "ORDER BY n, sample LIMIT ?"
    )
    while page_rows := ledger.read(page, [NAME, *at, PAGE]):
        at = page_rows[-1]
        for n, sample in page_rows:
            yield load_view(ledger, shown_item(ledger, n, sample))


def _images(sample: Sample) -> list[str]:
    """A row's images as data URLs; one that cannot be read is left out, as the row's verdict is another stage's."""
    urls = []
    for image in sample.images:
        try:
            kind, data = sendable(image, MAX_PIXELS)
        except ImageError:
            continue
        urls.append(f"data:{kind};base64,{base64.b64encode(data).decode()}")
    return urls


def _tasks(path: Path) -> list[dict[str, Any]]:
    """The tasks of an export, all of which are ours. LabelStudioError for a file that is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise LabelStudioError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, list):
        raise LabelStudioError(f"{path} is no list of tasks: export from Label Studio as JSON")
    for number, task in enumerate(value, start=1):
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not _names_an_item(data):
            raise LabelStudioError(
                f"{path}: task {number} was not written by `look-again data export` (JSON-MIN drops what is needed: "
                "export as JSON)"
            )
    return value


def _names_an_item(data: Mapping[str, Any]) -> bool:
    numbers, texts = ([data.get(name) for name in names] for names in (("n", "sample"), ("row", "input")))
    sound = all(type(number) is int and 0 <= number < 2**63 for number in numbers)
    return sound and all(isinstance(text, str) and storable(text) == text for text in texts)
