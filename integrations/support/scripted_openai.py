"""Scripted OpenAI: a server on 127.0.0.1 that answers `/responses` and `/chat/completions`, without streaming.

A script is a list of tool calls, `(name, arguments)`. How many answers of tools a request holds says how far the
conversation is, so nothing is remembered between requests; after the last step the model says `done`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from scripted_server import ScriptedServer

Step = tuple[str, dict[str, Any] | str]


@dataclass
class ScriptedOpenAI(ScriptedServer):
    """Use as a context manager. `answers` are those of the tools in the longest conversation."""

    steps: list[Step]
    answers: list[Any] = field(default_factory=list)
    tools: list[str] = field(default_factory=list)

    @property
    def handler(self) -> type[BaseHTTPRequestHandler]:
        return _Handler

    @property
    def environ(self) -> dict[str, str]:
        """What makes the `openai` package, and those that use it, ask this server."""
        url = f"{self.url}/v1"
        return {"OPENAI_BASE_URL": url, "OPENAI_API_BASE": url, "OPENAI_API_KEY": "none", "OPENAI_MODEL": "scripted"}

    def next_step(self, answers: list[Any]) -> tuple[str, str] | None:
        if len(answers) >= len(self.answers):
            self.answers = answers
        if len(answers) >= len(self.steps):
            return None
        name, arguments = self.steps[len(answers)]
        return name, arguments if isinstance(arguments, str) else json.dumps(arguments)


class _Handler(BaseHTTPRequestHandler):
    scripted: ScriptedOpenAI

    def log_message(self, *_: object) -> None:
        """Tests have a terminal of their own."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert not body.get("stream")
        shape = {"/v1/responses": _response, "/v1/chat/completions": _completion}[self.path]
        data = json.dumps(shape(self.scripted, body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _response(script: ScriptedOpenAI, body: dict[str, Any]) -> dict[str, Any]:
    script.tools = [tool.get("name") or tool["type"] for tool in body.get("tools") or []]
    answers = [item["output"] for item in body["input"] if item.get("type") == "function_call_output"]
    step = script.next_step(answers)
    text = {"type": "output_text", "text": "done", "annotations": []}
    item: dict[str, Any] = {
        "type": "message",
        "id": "m_1",
        "role": "assistant",
        "status": "completed",
        "content": [text],
    }
    if step is not None:
        made = {"call_id": f"call_{len(answers)}", "name": step[0], "arguments": step[1]}
        item = {"type": "function_call", "id": f"fc_{len(answers)}", "status": "completed", **made}
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    head = {"id": f"r_{len(answers)}", "object": "response", "created_at": 1, "status": "completed"}
    asked = {"model": body["model"], "parallel_tool_calls": False, "tool_choice": "auto", "tools": []}
    return {**head, **asked, "output": [item], "usage": {**usage, **details}}


def _completion(script: ScriptedOpenAI, body: dict[str, Any]) -> dict[str, Any]:
    script.tools = [tool["function"]["name"] for tool in body.get("tools") or []]
    answers = [one["content"] for one in body["messages"] if one["role"] == "tool"]
    step = script.next_step(answers)
    message: dict[str, Any] = {"role": "assistant", "content": "done"}
    if step is not None:
        call = {"name": step[0], "arguments": step[1]}
        calls = [{"id": f"call_{len(answers)}", "type": "function", "function": call}]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": message, "finish_reason": "stop" if step is None else "tool_calls"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    head = {"id": "c_1", "object": "chat.completion", "created": 1, "model": body["model"]}
    return {**head, "choices": [choice], "usage": usage}
