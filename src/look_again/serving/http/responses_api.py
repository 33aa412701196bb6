"""OpenAI's Responses API: the same answers as chat completions, as a list of items or a stream of typed events.

The reasoning, with its tags, is a reasoning item; the CONCLUSION is a message; calls are items of their own. Items are
built from the pieces of an answer in one place, so the stream and the whole response agree.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from typing import Any

from look_again.core.generate import Reflection
from look_again.serving.choice import Choice, Piece, TextPiece, ToolCallsPiece
from look_again.serving.http import payloads
from look_again.serving.http.chat_completion import ChatCompletionResponse, ResponseWriter, fan_out
from look_again.serving.http.chat_jobs import ChatJobs
from look_again.serving.http.errors import ApiError, invalid
from look_again.serving.http.request_fields import parse_model
from look_again.serving.http.responses_schema import ResponsesRequest, build_chat_body
from look_again.serving.tool_calls import Call

JSON = dict[str, Any]
NOT_STORED = "this server stores no responses: send the earlier items in input"
_PLACE = re.compile(r"messages\[(\d+)\]")


class ResponsesResponse(ChatCompletionResponse):
    """The answer to one request of the Responses API, computed while it is sent."""

    id_prefix = "resp_"

    async def prepare(self, body: Any) -> ChatJobs:
        """As `Service.prepare`; errors name the fields of this API."""
        if isinstance(body, dict):
            for field in ("previous_response_id", "conversation", "prompt"):
                if body.pop(field, None) is not None:
                    raise invalid(f"{field} is not supported: {NOT_STORED}", field, "unsupported_parameter")
        self.request = parse_model(ResponsesRequest, body, name_types=True)
        chat_body, places = build_chat_body(self.request)
        try:
            return await self.service.prepare(chat_body)
        except ApiError as error:
            error.param = _rename(error.param, places)
            raise

    async def answer(self, chat: ChatJobs, choices: Sequence[Choice], writer: ResponseWriter, started: float) -> None:
        [choice] = choices
        head = ResponseHead(writer.id, self.request)
        items, events = ResponseItems(chat.token_report), EventStream(writer)
        if chat.stream:
            await events.send("response.created", response=head.describe("in_progress", []))
            await events.send("response.in_progress", response=head.describe("in_progress", []))
        async with aclosing(fan_out(self.service.backend, chat.jobs, choices)) as pieces:
            async for _, piece in pieces:
                self.note_first_text(piece, started)
                for event in items.take(piece, choice):
                    if chat.stream:
                        await events.send(**event)
        report = await self.report(chat, choices)
        response = head.finish(items.output, choice, report)
        if not chat.stream:
            await writer.json(200, response, {})
            return
        await events.send(f"response.{response['status']}", response=response)
        await writer.end()


class EventStream:
    """Numbers the events of a stream and sends them."""

    def __init__(self, writer: ResponseWriter) -> None:
        self.writer, self.number = writer, 0

    async def send(self, type: str, **fields: Any) -> None:
        await self.writer.event({"type": type, "sequence_number": self.number, **fields}, name=type)
        self.number += 1


class ResponseHead:
    """The fields of a response that its request decides."""

    def __init__(self, id: str, request: ResponsesRequest) -> None:
        self.id, self.request, self.created = id, request, int(time.time())

    def describe(self, status: str, output: list[JSON], **fields: Any) -> JSON:
        """The response object."""
        request = self.request
        text = request.text and request.text.format
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": request.model,
            "output": output,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": request.reasoning and request.reasoning.effort, "summary": None},
            "store": False,
            "temperature": request.temperature,
            "text": {"format": text.model_dump(by_alias=True, exclude_none=True) if text else {"type": "text"}},
            "tool_choice": request.model_dump()["tool_choice"] or "auto",
            "tools": [tool.model_dump() for tool in request.tools or ()],
            "top_p": request.top_p,
            "truncation": "disabled",
            "usage": None,
            **fields,
        }

    def finish(self, output: list[JSON], choice: Choice, report: JSON) -> JSON:
        """The response object at the end."""
        cut = choice.finish_reason == "length"
        details = {"reason": "max_output_tokens"} if cut else None
        status = "incomplete" if cut else "completed"
        usage = _describe_usage(payloads.usage([choice]))
        return self.describe(status, output, incomplete_details=details, usage=usage, look_again=report)


class ResponseItems:
    """The items of a response, built of an answer's pieces, and the events that tell of them."""

    def __init__(self, token_report: payloads.TokenReport) -> None:
        self.token_report = token_report
        self.output: list[JSON] = []
        self._open: JSON | None = None  # the item that text is being added to

    def take(self, piece: Piece | None, choice: Choice) -> Iterator[JSON]:
        """The events of a piece; None ends the answer."""
        if isinstance(piece, TextPiece):
            yield from self._add_text(piece, choice)
        elif isinstance(piece, ToolCallsPiece):
            yield from self._close("completed")
            for call in piece.calls:
                yield from self._add_call(call)
        elif isinstance(piece, Reflection):
            described = payloads.describe_reflection(0, piece, rows=False)
            yield {"type": "look_again.reflection", "reflection": described}
        elif piece is None:
            yield from self._close("incomplete" if choice.finish_reason == "length" else "completed")

    def _add_text(self, piece: TextPiece, choice: Choice) -> Iterator[JSON]:
        kind = "message" if piece.field == "content" else "reasoning"
        if self._open is None or self._open["type"] != kind:
            if kind == "reasoning" and not piece.text.strip():
                return
            yield from self._close("completed")
            yield from self._begin(kind)
        assert self._open is not None
        part = self._open["content"][0]
        part["text"] += piece.text
        tokens = self.token_report.tokens(choice, piece.field)["logprobs"]
        entries = tokens[piece.field] if tokens else []
        if kind == "message":
            part["logprobs"] += entries
        extra = {"logprobs": entries} if kind == "message" else {}
        yield self._event("delta", delta=piece.text, **extra)

    def _begin(self, kind: str) -> Iterator[JSON]:
        if kind == "message":
            part: JSON = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item: JSON = {
                "id": _new_id("msg"),
                "type": kind,
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
        else:
            part = {"type": "reasoning_text", "text": ""}
            item = {"id": _new_id("rs"), "type": kind, "summary": [], "status": "in_progress", "content": []}
        yield {"type": "response.output_item.added", "output_index": len(self.output), "item": _copy(item)}
        self.output.append(item)
        self._open = item
        place = {"item_id": item["id"], "output_index": len(self.output) - 1, "content_index": 0}
        yield {"type": "response.content_part.added", **place, "part": dict(part)}
        item["content"] = [part]

    def _close(self, status: str) -> Iterator[JSON]:
        if self._open is None:
            return
        item, self._open = self._open, None
        part = item["content"][0]
        place = {"item_id": item["id"], "output_index": len(self.output) - 1, "content_index": 0}
        extra = {"logprobs": part["logprobs"]} if item["type"] == "message" else {}
        yield {"type": f"response.{part['type']}.done", **place, "text": part["text"], **extra}
        yield {"type": "response.content_part.done", **place, "part": dict(part)}
        item["status"] = status
        yield {"type": "response.output_item.done", "output_index": len(self.output) - 1, "item": _copy(item)}

    def _add_call(self, call: Call) -> Iterator[JSON]:
        item = {"id": _new_id("fc"), "type": "function_call", "call_id": call.id, "name": call.name}
        place = {"item_id": item["id"], "output_index": len(self.output)}
        begun = {**item, "arguments": "", "status": "in_progress"}
        yield {"type": "response.output_item.added", "output_index": len(self.output), "item": begun}
        yield {"type": "response.function_call_arguments.delta", **place, "delta": call.arguments}
        done = {"arguments": call.arguments, "name": call.name}
        yield {"type": "response.function_call_arguments.done", **place, **done}
        whole = {**item, "arguments": call.arguments, "status": "completed"}
        self.output.append(whole)
        yield {"type": "response.output_item.done", "output_index": len(self.output) - 1, "item": dict(whole)}

    def _event(self, name: str, **fields: Any) -> JSON:
        assert self._open is not None
        place = {"item_id": self._open["id"], "output_index": len(self.output) - 1, "content_index": 0}
        return {"type": f"response.{self._open['content'][0]['type']}.{name}", **place, **fields}


def _describe_usage(usage: JSON) -> JSON:
    cached = (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": usage["completion_tokens_details"],
        "total_tokens": usage["total_tokens"],
        "look_again": usage["look_again"],
    }


def _rename(param: str | None, places: Sequence[int | None]) -> str | None:
    """The place of a field of the chat completion, in the request that it was made of."""
    if param is None:
        return None
    match = _PLACE.match(param)
    if match:
        place = places[int(match[1])]
        return "input" if place is None else f"input[{place}]{param[match.end() :].removesuffix('.url')}"
    names = {"messages": "input", "max_completion_tokens": "max_output_tokens", "response_format": "text.format"}
    names |= {"reasoning_effort": "reasoning.effort", "response_format.json_schema.schema": "text.format.schema"}
    return names.get(param, param)


def _copy(item: JSON) -> JSON:
    return {**item, "content": [dict(part) for part in item["content"]]}


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"
