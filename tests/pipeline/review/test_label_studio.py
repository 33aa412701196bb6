"""Rows go to Label Studio and decisions come back, through the same checks as on the page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from look_again.commands.main import main
from look_again.pipeline.ledger.items import counts
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.review.decisions import ReviewError, broken_links, claim, decide, list_decisions, undo
from look_again.pipeline.review.label_studio import INTERFACE, LabelStudioError, export, read_back, read_decision
from tests.pipeline.review.review_runs import prepare, rows_of


def annotated(action: str, response: str | None = None, note: str = "", by: object = 7, **more: object) -> dict:
    """An annotation as Label Studio writes it."""
    result = [
        {"id": "a", "from_name": "decision", "to_name": "shown", "type": "choices", "value": {"choices": [action]}}
    ]
    for name, text in (("response", response), ("note", note)):
        if text:
            value = {"text": [text]}
            result.append({"id": name, "from_name": name, "to_name": "shown", "type": "textarea", "value": value})
    return {"id": 1, "completed_by": by, "was_cancelled": False, "lead_time": 3.2, "result": result, **more}


def tasks_in(path: Path) -> list[dict]:
    return json.loads(path.read_text())


def send_back(path: Path, tasks: list[dict]) -> Path:
    """As Label Studio exports: with ids, a project and times of its own."""
    path.write_text(json.dumps([{"id": i, "project": 3, "predictions": [], **task} for i, task in enumerate(tasks)]))
    return path


def test_a_task_holds_what_a_reviewer_has_to_see(ledger, tmp_path, response):
    prepare(ledger, response, rows_of(2, reference="4", images=(Image.new("RGB", (30, 30)),)))
    made = export(ledger, tmp_path / "out.json")
    assert made == {"tasks": 2, "decided": 0, "interface": str(tmp_path / "out.xml")}
    first = tasks_in(tmp_path / "out.json")[0]
    data = first["data"]
    assert (data["row"], data["question"], data["reference"], data["response"]) == ("r0", "Q0?", "4", response)
    assert [verdict["judge"] for verdict in data["verdicts"]] == ["j1", "j2"]
    assert data["pictures"][0].startswith("data:image/png;base64,")
    assert "la-conclusion" in data["html"]
    assert first["annotations"] == []


def test_the_interface_names_what_tasks_hold_and_what_is_read_back(ledger, tmp_path, response):
    prepare(ledger, response, rows_of(1))
    export(ledger, tmp_path / "out.json")
    data = tasks_in(tmp_path / "out.json")[0]["data"]
    tree = ElementTree.fromstring((tmp_path / "out.xml").read_text())
    used = {value[1:] for part in tree.iter() for value in part.attrib.values() if value.startswith("$")}
    assert used <= set(data)
    controls = {part.get("name") for part in tree.iter() if part.get("toName") == "shown"}
    assert controls == {"decision", "response", "note"}
    assert [part.get("value") for part in tree.iter("Choice")] == ["accept", "reject", "edit"]
    assert ElementTree.fromstring(INTERFACE).tag == "View"


def test_decisions_come_back_once(ledger, tmp_path, response):
    people = prepare(ledger, response, rows_of(5))
    export(ledger, tmp_path / "out.json")
    tasks = tasks_in(tmp_path / "out.json")
    edited = response.replace(">4<", ">5<")
    tasks[0]["annotations"] = [annotated("accept", response, by={"id": 2, "email": "ann@example.org"})]
    tasks[1]["annotations"] = [annotated("reject", response, "blurred")]
    tasks[2]["annotations"] = [annotated("edit", edited.replace("<CONCL", "\r\n<CONCL"))]
    tasks[3]["annotations"] = [annotated("accept", was_cancelled=True)]
    back = send_back(tmp_path / "back.json", tasks)
    assert read_back(ledger, back) == {"taken": 3, "known": 0, "open": 2, "refused": []}
    assert [(d.reviewer, d.action, d.note) for d in list_decisions(ledger)] == [
        ("ann@example.org", "accept", ""),
        ("label-studio-7", "reject", "blurred"),
        ("label-studio-7", "edit", ""),
    ]
    assert list_decisions(ledger)[2].response == edited.replace("<CONCL", "\n<CONCL")
    assert read_back(ledger, back) == {"taken": 0, "known": 3, "open": 2, "refused": []}
    assert counts(ledger, people.key) == {"items": 5, "ok": 2, "bad": 1, "waiting": 2, "pending": 0}


def test_what_was_decided_here_goes_out_and_is_known_when_it_comes_back(ledger, tmp_path, response):
    prepare(ledger, response, rows_of(3))
    decide(ledger, claim(ledger, "ann", ["ann"]), "ann", "reject", note="no")
    edited = response.replace(">4<", ">5<")
    decide(ledger, claim(ledger, "ann", ["ann"]), "ann", "edit", response=edited)
    assert export(ledger, tmp_path / "out.json")["decided"] == 2
    assert read_back(ledger, tmp_path / "out.json") == {"taken": 0, "known": 2, "open": 1, "refused": []}
    assert export(ledger, tmp_path / "open.json", only_open=True)["tasks"] == 1
    with Ledger(tmp_path / "copy") as other:  # the same rows elsewhere: reviewer and decision travel
        prepare(other, response, rows_of(3))
        assert read_back(other, tmp_path / "out.json")["taken"] == 2
        assert [(d.reviewer, d.action, d.response) for d in list_decisions(other)] == [
            ("ann", "reject", None),
            ("ann", "edit", edited),
        ]


def test_annotations_are_as_label_studio_documents_them(ledger, tmp_path, response):
    """It drops results whose control, object or type the interface lacks, and mixes up those that share an id."""
    prepare(ledger, response, rows_of(2))
    decide(ledger, claim(ledger, "ann", ["ann"]), "ann", "reject", note="no")
    edited = response.replace(">4<", ">5<")
    decide(ledger, claim(ledger, "ann", ["ann"]), "ann", "edit", response=edited, note="yes")
    export(ledger, tmp_path / "out.json")
    tree = ElementTree.fromstring((tmp_path / "out.xml").read_text())
    controls = {part.get("name"): part.tag.lower() for part in tree.iter() if part.get("toName")}
    objects = {part.get("name") for part in tree.iter() if part.tag in ("HyperText", "Image")}
    results = [part for task in tasks_in(tmp_path / "out.json") for part in task["annotations"][0]["result"]]
    assert [part["from_name"] for part in results] == ["decision", "note", "decision", "response", "note"]
    for part in results:
        assert part["type"] == controls[part["from_name"]]
        assert part["to_name"] in objects
        assert re.fullmatch(r"[\w-]+", part["id"])
        assert list(part["value"]) == [{"choices": "choices", "textarea": "text"}[part["type"]]]
    assert len({part["id"] for part in results}) == 5


def test_blanks_that_a_text_area_cut_off_are_no_edit(ledger, tmp_path, response):
    prepare(ledger, f"{response}\n", rows_of(2))
    export(ledger, tmp_path / "out.json")
    tasks = tasks_in(tmp_path / "out.json")
    tasks[0]["annotations"] = [annotated("accept", response)]
    tasks[1]["annotations"] = [annotated("edit", response)]
    made = read_back(ledger, send_back(tmp_path / "back.json", tasks))
    assert (made["taken"], made["refused"][0]["reason"]) == (1, "an edit that changes nothing")


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        (lambda r: [annotated("edit", r.replace("</CAPTION>", ""))], "unclosed CAPTION"),
        (lambda r: [annotated("edit", r)], "an edit that changes nothing"),
        (lambda r: [annotated("edit")], "an edit without a response"),
        (lambda r: [annotated("accept", r + "!")], "accepted, but the response was changed"),
        (lambda r: [annotated("accept"), annotated("reject")], "2 annotations that differ"),
        (lambda r: [annotated("maybe")], "no decision, but 'maybe'"),
        (lambda r: [{"result": []}], "no decision, but None"),
    ],
)
def test_a_bad_decision_is_refused_with_its_row_and_the_rest_is_taken(ledger, tmp_path, response, annotations, reason):
    prepare(ledger, response, rows_of(2))
    export(ledger, tmp_path / "out.json")
    tasks = tasks_in(tmp_path / "out.json")
    tasks[0]["annotations"] = annotations(response)
    tasks[1]["annotations"] = [annotated("accept"), annotated("accept", by=8)]
    made = read_back(ledger, send_back(tmp_path / "back.json", tasks))
    assert (made["taken"], [refused["row"] for refused in made["refused"]]) == (1, ["r0"])
    assert reason in made["refused"][0]["reason"]


def test_an_answer_that_changed_and_another_runs_row_are_refused(ledger, tmp_path, response):
    prepare(ledger, response, rows_of(3))
    export(ledger, tmp_path / "out.json")
    tasks = tasks_in(tmp_path / "out.json")
    for task in tasks:
        task["annotations"] = [annotated("accept")]
    tasks[0]["data"]["row"] = "somebody else's"
    tasks[1]["data"]["n"] = 99
    claim(ledger, "ann", ["ann"])
    prepare(ledger, response.replace(">4<", ">6<"), rows_of(3), version="v2")
    made = read_back(ledger, send_back(tmp_path / "back.json", tasks), "bob")
    assert made["taken"] == 0
    reasons = [refused["reason"] for refused in made["refused"]]
    assert "this run's row 1 is 'r0'" in reasons[0]
    assert "not under review" in reasons[1]
    assert "changed since it was shown" in reasons[2]


@pytest.mark.parametrize(
    "text", ["{", "{}", '[{"image": "x", "decision": "accept"}]', '[{"data": {"row": "r0"}}]', "[3]"]
)
def test_other_files_are_refused(ledger, tmp_path, text):
    (tmp_path / "back.json").write_text(text)
    with pytest.raises(LabelStudioError, match=r"back\.json"):
        read_back(ledger, tmp_path / "back.json")


def test_a_decision_without_a_reviewer_has_a_name_all_the_same():
    assert read_decision({"annotations": [annotated("accept", by=None)]})[3] == "label-studio-unknown"
    assert read_decision({"annotations": None}) is None
    with pytest.raises(ReviewError, match="no decision"):
        read_decision({"annotations": [{"result": ["odd"]}]})


def test_the_commands_export_and_import(ledger, tmp_path, response, capsys):
    prepare(ledger, response, rows_of(2))
    run, out = str(tmp_path / "run"), tmp_path / "out.json"
    assert main(["data", "export", run, "--label-studio", str(out)]) == 0
    assert "2 tasks in" in capsys.readouterr().out
    tasks = tasks_in(out)
    tasks[0]["annotations"] = [annotated("accept")]
    tasks[1]["annotations"] = [annotated("maybe")]
    back = str(send_back(tmp_path / "back.json", tasks))
    assert main(["data", "import", run, back, "--reviewer", "cy"]) == 0
    assert "1 decisions taken over, 0 were there, 0 tasks without one\n  r1: the annotation" in capsys.readouterr().out
    assert main(["data", "import", run, back, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["known"] == 1
    assert list_decisions(ledger)[0].reviewer == "cy"
    assert main(["data", "import", run, str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


ODD = [None, True, 12, 10**30, float("nan"), "\ud800", [12], ["x"], {"a": 1}]


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """The paths of everything inside of a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from places(part, (*path, key))


def replaced(value: object, path: tuple, by: object) -> object:
    if not path:
        return by
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], by)
    return copy


def is_named(data: object) -> bool:
    """Whether a task's data say which item it is about."""
    given = data if isinstance(data, dict) else {}
    numbers = [given.get(name) for name in ("n", "sample")]
    texts = [given.get(name) for name in ("row", "input")]
    sound = all(type(number) is int and number < 2**63 for number in numbers)
    return sound and all(isinstance(text, str) and text != "\ud800" for text in texts)


def test_odd_values_at_every_level_end_in_one_line_and_lose_nothing(ledger, tmp_path, response):
    """`"annotations": [12]` was a traceback: what hangs on one task must not take the others with it."""
    prepare(ledger, response, rows_of(3))
    export(ledger, tmp_path / "out.json")
    tasks = tasks_in(tmp_path / "out.json")
    edited = annotated("edit", response.replace(">4<", ">5<"), "note", {"email": "a@b.c"})
    edited["result"][0]["meta"] = {"text": ["ann"]}
    for task in tasks:
        task["annotations"] = [annotated("accept")]
    tasks[1]["annotations"] = [edited]
    tasks[1] = {name: tasks[1][name] for name in ("data", "annotations")}
    tasks[1]["data"] = {name: tasks[1]["data"][name] for name in ("row", "n", "sample", "input", "response")}
    read_back(ledger, send_back(tmp_path / "back.json", [tasks[0], tasks[2]]))
    for path in list(places(tasks[1])):
        for odd in ODD:
            changed = [tasks[0], replaced(tasks[1], path, odd), tasks[2]]
            (tmp_path / "back.json").write_text(json.dumps(changed))
            if path[0] == "data" and not is_named(changed[1]["data"]):
                with pytest.raises(LabelStudioError, match=r"^[^\n]*task 2 was not written by[^\n]*$"):
                    read_back(ledger, tmp_path / "back.json")
                continue
            made = read_back(ledger, tmp_path / "back.json")
            assert made["taken"] + made["known"] + made["open"] + len(made["refused"]) == 3, (path, odd)
            assert made["known"] >= 2, (path, odd)
            assert all("\n" not in refused["reason"] for refused in made["refused"])
            if made["taken"]:
                undo(ledger, list_decisions(ledger)[-1].reviewer)
    assert broken_links(ledger) == []


def test_a_file_that_is_no_export_takes_nothing(ledger, tmp_path, response):
    """The tasks before the odd one were taken, those after it were not, and nothing said so."""
    prepare(ledger, response, rows_of(2))
    export(ledger, tmp_path / "out.json")
    tasks = tasks_in(tmp_path / "out.json")
    tasks[0]["annotations"] = [annotated("accept")]
    for last in (3, {"data": 3}, {"data": {**tasks[1]["data"], "n": True}}, {"data": {**tasks[1]["data"], "n": 2**70}}):
        (tmp_path / "back.json").write_text(json.dumps([tasks[0], last]))
        with pytest.raises(LabelStudioError, match="task 2 was not written by"):
            read_back(ledger, tmp_path / "back.json")
    assert list_decisions(ledger) == []


def test_a_byte_order_mark_and_other_encodings(ledger, tmp_path, response):
    prepare(ledger, response, rows_of(1))
    export(ledger, tmp_path / "out.json")
    tasks = tasks_in(tmp_path / "out.json")
    tasks[0]["annotations"] = [annotated("accept")]
    text = json.dumps(tasks)
    (tmp_path / "back.json").write_text(text, encoding="utf-8-sig")
    assert read_back(ledger, tmp_path / "back.json")["taken"] == 1
    for data in (text.encode("utf-16"), b"[" * 100_000, b"\xff\xfe", b""):
        (tmp_path / "back.json").write_bytes(data)
        with pytest.raises(LabelStudioError, match="is not JSON"):
            read_back(ledger, tmp_path / "back.json")
