"""Scripted model: a server on 127.0.0.1 that speaks the streaming APIs of the three chat hosts and follows a script.

A script is a list of tool calls. How many answers of tools a request holds says how far the conversation is, so nothing
is remembered between requests; after the last step, and where a request offers no tools, it says `done`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from scripted_server import ScriptedServer

Step = tuple[str, dict[str, Any]]


@dataclass
class Seen:
    """What one request showed the model."""

    tools: list[str]
    answers: list[str]


@dataclass
class ScriptedModel(ScriptedServer):
    """Use as a context manager; `steps` name a tool by the end of its name."""

    steps: list[Step]
    seen: list[Seen] = field(default_factory=list)
    answered: threading.Condition = field(default_factory=threading.Condition)

    @property
    def handler(self) -> type[BaseHTTPRequestHandler]:
        return _Handler

    @property
    def answers(self) -> list[str]:
        """The answers of tools in the longest conversation."""
        return max((seen.answers for seen in self.seen), key=len, default=[])

    @property
    def first_tools(self) -> list[str]:
        """The tools of the first request that offered some."""
        return next((seen.tools for seen in self.seen if seen.tools), [])

    def next_step(self, tools: list[str], answers: list[str]) -> Step | None:
        with self.answered:
            self.seen.append(Seen(tools, answers))
            self.answered.notify_all()
        if not tools or len(answers) >= len(self.steps):
            return None
        wanted, arguments = self.steps[len(answers)]
        named = next((tool for tool in tools if tool == wanted or tool.endswith(f"_{wanted}")), wanted)
        return named, arguments

    def wait_for(self, answers: int, seconds: float) -> bool:
        """Until a request has held that many answers."""
        with self.answered:
            return self.answered.wait_for(lambda: len(self.answers) >= answers, seconds)


class _Handler(BaseHTTPRequestHandler):
    scripted: ScriptedModel
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._send(200, b"", "text/plain")

    def do_GET(self) -> None:
        self._send(200, b'{"data": [], "models": []}', "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path = self.path.partition("?")[0]
        for end, talk in (("/responses", _responses), ("/messages", _messages), ("/chat/completions", _completions)):
            if path.endswith(end):
                events = "".join(talk(self.scripted, body))
                return self._send(200, events.encode(), "text/event-stream")
        if path.endswith("/count_tokens"):
            return self._send(200, b'{"input_tokens": 10}', "application/json")
        return self._send(404, b"{}", "application/json")

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _text(content: Any) -> str:
    """All text of a message's content, whatever form it has."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text(part) for part in content)
    return _text(content.get("text") or content.get("content") or "") if isinstance(content, dict) else ""


def _event(data: dict[str, Any], *, named: bool = True) -> str:
    head = f"event: {data['type']}\n" if named else ""
    return f"{head}data: {json.dumps(data)}\n\n"


def _responses(script: ScriptedModel, body: dict[str, Any]) -> Iterator[str]:
    tools, spaces = _offered(body)
    items = body.get("input") or []
    answers = [_text(item.get("output")) for item in items if item.get("type") == "function_call_output"]
    step = script.next_step(tools, answers)
    yield _event({"type": "response.created", "response": {"id": "resp_1"}})
    item: dict[str, Any]
    if step is None:
        part = {"type": "output_text", "text": "done", "annotations": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "content": [part]}
    else:
        name, arguments = step
        item = {"type": "function_call", "id": "fc_1", "call_id": f"call_{len(answers)}", "name": name}
        item |= {"arguments": json.dumps(arguments)}
        if name in spaces:
            item |= {"namespace": spaces[name][0], "name": spaces[name][1]}
    yield _event({"type": "response.output_item.done", "output_index": 0, "item": item})
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    yield _event({"type": "response.completed", "response": {"id": "resp_1", "output": [item], "usage": usage}})


def _offered(body: dict[str, Any]) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """The tools by one name each; of those in a namespace, both names."""
    names: list[str] = []
    spaces: dict[str, tuple[str, str]] = {}
    for tool in body.get("tools") or []:
        if tool.get("type") == "namespace":
            for inner in tool.get("tools") or []:
                whole = f"{tool['name']}__{inner['name']}"
                spaces[whole] = (tool["name"], inner["name"])
                names.append(whole)
        elif "name" in tool:
            names.append(tool["name"])
    return names, spaces


def _messages(script: ScriptedModel, body: dict[str, Any]) -> Iterator[str]:
    tools = [tool["name"] for tool in body.get("tools") or []]
    parts = [part for turn in body.get("messages") or [] for part in turn["content"] if isinstance(part, dict)]
    answers = [_text(part.get("content")) for part in parts if part.get("type") == "tool_result"]
    step = script.next_step(tools, answers)
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body.get("model"), "content": []}
    yield _event({"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage}})
    if step is None:
        block, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": "done"}
    else:
        block = {"type": "tool_use", "id": f"toolu_{len(answers)}", "name": step[0], "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(step[1])}
    yield _event({"type": "content_block_start", "index": 0, "content_block": block})
    yield _event({"type": "content_block_delta", "index": 0, "delta": delta})
    yield _event({"type": "content_block_stop", "index": 0})
    reason = {"stop_reason": "end_turn" if step is None else "tool_use", "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": reason, "usage": {"output_tokens": 1}})
    yield _event({"type": "message_stop"})


def _completions(script: ScriptedModel, body: dict[str, Any]) -> Iterator[str]:
    tools = [tool["function"]["name"] for tool in body.get("tools") or []]
    answers = [_text(turn.get("content")) for turn in body.get("messages") or [] if turn.get("role") == "tool"]
    step = script.next_step(tools, answers)
    delta: dict[str, Any] = {"role": "assistant", "content": "done"}
    if step is not None:
        call = {"name": step[0], "arguments": json.dumps(step[1])}
        calls = [{"index": 0, "id": f"call_{len(answers)}", "type": "function", "function": call}]
        delta = {"role": "assistant", "content": None, "tool_calls": calls}
    head = {"id": "c_1", "object": "chat.completion.chunk", "created": 1, "model": body.get("model")}
    yield _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}, named=False)
    reason = "stop" if step is None else "tool_calls"
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    end = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage}
    yield _event(end, named=False)
    yield "data: [DONE]\n\n"
