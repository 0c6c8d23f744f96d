"""Scripted Ollama: a server on 127.0.0.1 that speaks the part of Ollama's API that `pyro demo ollama` uses.

It answers `/api/chat` with one message of the script after the other, the last one for ever, and keeps what it is sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from scripted_server import ScriptedServer

Reply = Callable[[BaseHTTPRequestHandler], None]


def says(text: str) -> dict[str, Any]:
    """A message without a call."""
    return {"role": "assistant", "content": text}


def calls(*arguments: Any, name: str = "vm_run") -> dict[str, Any]:
    """A message that calls a tool once with each of `arguments`."""
    made = [{"function": {"name": name, "arguments": one}} for one in arguments]
    return {"role": "assistant", "content": "", "tool_calls": made}


@dataclass
class ScriptedOllama(ScriptedServer):
    """Use as a context manager. `models` maps a name to its capabilities; a reply is a message or writes by itself."""

    script: list[dict[str, Any] | Reply]
    models: dict[str, list[str]] = field(default_factory=lambda: {"qwen3:8b": ["completion", "tools"]})
    chats: list[dict[str, Any]] = field(default_factory=list)

    @property
    def handler(self) -> type[BaseHTTPRequestHandler]:
        return _Handler


def answer(handler: BaseHTTPRequestHandler, status: int, body: Any, kind: str = "application/json") -> None:
    """Send `body`, as JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


class _Handler(BaseHTTPRequestHandler):
    scripted: ScriptedOllama

    def log_message(self, *_: object) -> None:
        """Tests have a terminal of their own."""

    def do_GET(self) -> None:
        if self.path != "/api/tags":
            return answer(self, 404, b"404 page not found", "text/plain")
        listed = [{"name": name, "model": name, "details": {}} for name in self.scripted.models]
        return answer(self, 200, {"models": listed})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.scripted.models.get(body["model"])
        if self.path not in ("/api/chat", "/api/show"):
            answer(self, 404, b"404 page not found", "text/plain")
        elif known is None:
            answer(self, 404, {"error": f"model '{body['model']}' not found"})
        elif self.path == "/api/show":
            answer(self, 200, {"capabilities": known, "details": {}})
        elif body.get("tools") and "tools" not in known:
            answer(self, 400, {"error": f"registry.ollama.ai/library/{body['model']} does not support tools"})
        else:
            self._chat(body)

    def _chat(self, body: dict[str, Any]) -> None:
        script = self.scripted
        assert body["stream"] is False
        script.chats.append(body)
        reply = script.script[min(len(script.chats), len(script.script)) - 1]
        if callable(reply):
            reply(self)
            return
        whole = {"model": body["model"], "created_at": "2026-11-28T10:00:00Z", "message": reply}
        answer(self, 200, {**whole, "done": True, "done_reason": "stop"})
