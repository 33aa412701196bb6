"""What a request says of its answer: the bound on its reasoning, its form, the functions it may call, how tokens are
chosen beyond temperature and top_p.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from look_again.extras import MissingExtraError
from look_again.serving.answer_schema import check_schema, close_objects, validate_schema
from look_again.serving.decode_options import DecodeOptions
from look_again.serving.http.errors import invalid
from look_again.serving.http.schema import ChatRequest, JsonObjectFormat, JsonSchemaFormat, TextFormat, ToolChoice
from look_again.serving.tool_calls import NO_ARGUMENTS, Function, Toolbox

REASONING_SHARES = {"none": 0.0, "minimal": 1 / 8, "low": 1 / 4, "medium": 1 / 2, "high": 3 / 4, "xhigh": 7 / 8}
"""Of all tokens of an answer, how many its reasoning may take, by `reasoning_effort`."""


def bound_reasoning(request: ChatRequest, tokens: int) -> int | None:
    """`max_reasoning_tokens` of a request for `tokens` tokens. An answer with a schema has one: it has to come."""
    bound = request.max_reasoning_tokens
    if bound is not None:
        if bound >= tokens:
            message = (
                f"max_reasoning_tokens is below the answer's {tokens} tokens, which leaves the rest to the CONCLUSION"
            )
            raise invalid(f"{message}; it is {bound}", "max_reasoning_tokens")
        return bound
    effort = request.reasoning_effort
    if effort is None and wants_schema(request):
        effort = "high"
    return None if effort is None else int(tokens * REASONING_SHARES[effort])


def wants_schema(request: ChatRequest) -> bool:
    """Whether the CONCLUSION has to follow a schema."""
    toolbox = build_toolbox(request)
    formatted = request.response_format is not None and not isinstance(request.response_format, TextFormat)
    return formatted or (toolbox is not None and toolbox.choice != "auto")


def build_toolbox(request: ChatRequest) -> Toolbox | None:
    """The functions that may be called; None for none. ApiError 400 for a choice of none of them."""
    choice = request.tool_choice
    if not request.tools:
        if choice not in (None, "none", "auto"):
            raise invalid("tool_choice asks for a call, and there are no tools", "tool_choice")
        return None
    if choice == "none":
        return None
    functions = [
        Function(tool.function.name, tool.function.description or "", tool.function.parameters or NO_ARGUMENTS)
        for tool in request.tools
    ]
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise invalid("two tools have the same name", "tools")
    if isinstance(choice, ToolChoice) and choice.function.name not in names:
        raise invalid(f"tool_choice names {choice.function.name!r}, which is none of the tools", "tool_choice")
    chosen = choice.function.name if isinstance(choice, ToolChoice) else choice or "auto"
    return Toolbox(functions, chosen, request.parallel_tool_calls is not False)


def choose_answer_schema(
    request: ChatRequest, toolbox: Toolbox | None, validate: Callable[[str], None] = validate_schema
) -> Mapping[str, Any] | None:
    """JSON Schema of the CONCLUSION; None for free text. ApiError 400 for one that cannot be followed.

    validate: as `validate_schema`.
    """
    called = None if toolbox is None else toolbox.answer_schema
    wanted = request.response_format
    if called is not None:
        schema, param = called, "tools"
    elif isinstance(wanted, JsonObjectFormat):
        schema, param = {"type": "object"}, "response_format"
    elif isinstance(wanted, JsonSchemaFormat):
        schema, param = wanted.json_schema.json_schema, "response_format.json_schema.schema"
    else:
        return None
    try:
        schema = close_objects(schema)
        check_schema(schema, validate)
    except MissingExtraError as error:
        raise invalid(str(error), param, "unsupported_parameter") from None
    except ValueError as error:
        raise invalid(str(error), param) from None
    return schema


def build_options(request: ChatRequest, schema: Mapping[str, Any] | None) -> DecodeOptions:
    """How tokens are chosen beyond `Sampling`, and what is reported of them. ApiError 400 for contradictions."""
    if request.top_logprobs and not request.logprobs:
        raise invalid("top_logprobs goes with logprobs: true", "top_logprobs")
    return DecodeOptions(
        top_k=max(0, request.top_k or 0),
        min_p=request.min_p or 0.0,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        min_tokens=request.min_tokens or 0,
        ignore_eos=bool(request.ignore_eos),
        log_probs=(request.top_logprobs or 0) if request.logprobs else None,
        answer_schema=schema,
    )


def build_instructions(request: ChatRequest, toolbox: Toolbox | None) -> list[dict[str, Any]]:
    """System text on the functions and the form of the CONCLUSION, where there is any to say."""
    lines = [] if toolbox is None else [toolbox.instructions]
    called = toolbox is not None and toolbox.choice != "auto"
    if isinstance(request.response_format, JsonObjectFormat) and not called:
        lines.append("The CONCLUSION is a JSON object.")
    if isinstance(request.response_format, JsonSchemaFormat) and not called:
        schema = json.dumps(request.response_format.json_schema.json_schema, ensure_ascii=False)
        lines.append(f"The CONCLUSION is JSON that follows this schema: {schema}")
    return [{"role": "system", "content": "\n\n".join(lines)}] if lines else []
