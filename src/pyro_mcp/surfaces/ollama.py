"""Ollama: the few requests of its HTTP API that a conversation with tools takes. Each failure says what to do about it.

The server is asked directly, past any proxy, and without streaming: an answer is one JSON document.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pyro_mcp.errors import (
    InvalidArgument,
    MissingDependency,
    NotFound,
    ProtocolError,
    PyroError,
    TimedOut,
    Unsupported,
)

DEFAULT_URL = "http://127.0.0.1:11434"
ANSWER_BYTES = 8 * 1024 * 1024
TOLD_CHARS = 500
"""Of what a server says about its own failure."""

_NO_TOOLS = "does not support tools"


class Ollama:
    """The server at `base_url`, which has `seconds` for each answer. Every method raises `PyroError`."""

    def __init__(self, base_url: str, seconds: float) -> None:
        self.base_url = _checked(base_url)
        self._seconds = seconds
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def models(self) -> list[str]:
        """The names of the installed models, the latest first."""
        listed = self._ask("/api/tags").get("models")
        if not isinstance(listed, list):
            raise self._unreadable("it lists no models")
        return [str(one["name"]) for one in listed if isinstance(one, Mapping) and one.get("name")]

    def takes_tools(self, model: str) -> bool:
        """Whether `model` is known to call tools. Old servers do not tell, and it is tried."""
        known = self._ask("/api/show", {"model": model}).get("capabilities")
        return not isinstance(known, list) or "tools" in known

    def chat(self, model: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> dict[str, Any]:
        """The model's next message: `role`, `content`, and a list `tool_calls`, if any."""
        options = {"stream": False, "options": {"temperature": 0}}
        answer = self._ask("/api/chat", {"model": model, "messages": messages, "tools": tools, **options})
        message = answer.get("message")
        if not isinstance(message, dict) or not isinstance(message.get("tool_calls") or [], list):
            raise self._unreadable("it holds no message")
        return {"role": "assistant", **message}

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        model = str(body["model"]) if body else None
        request = urllib.request.Request(self.base_url + path, data, {"Content-Type": "application/json"})
        try:
            with self._opener.open(request, timeout=self._seconds) as response:
                answer = self._parsed(response.read(ANSWER_BYTES + 1))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error.code, _told(error), model) from None
        except TimeoutError:
            raise self._late() from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._late() from None
            raise self._unreachable(error.reason) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        if isinstance(answer.get("error"), str):
            raise self._refused(200, answer["error"], model)
        return answer

    def _parsed(self, text: bytes) -> dict[str, Any]:
        if len(text) > ANSWER_BYTES:
            raise self._unreadable(f"it has more than {ANSWER_BYTES} bytes")
        try:
            answer = json.loads(text)
        except ValueError:
            raise self._unreadable("it is not JSON") from None
        if not isinstance(answer, dict):
            raise self._unreadable("it is no JSON object")
        return answer

    def _refused(self, status: int, told: str, model: str | None) -> PyroError:
        """What an error of HTTP `status` means, of which the server `told` so much; nothing, if it is not Ollama."""
        if _NO_TOOLS in told:
            return Unsupported(
                f"cannot use {model}: it does not call tools",
                hint="Take a model that does, such as `ollama pull qwen3`, and name it with --model.",
            )
        if status == 404 and told and model:
            there = ", ".join(self.models()) or "none"
            return NotFound(
                f"cannot use {model}: Ollama has no such model",
                hint=f"Install it with `ollama pull {model}`, or name another with --model. Installed: {there}.",
            )
        return PyroError(
            f"cannot ask Ollama at {self.base_url}: it answered {status}{told and f': {told[:TOLD_CHARS]}'}",
            hint="See its log." if told else f"Give --base-url without a path, such as {DEFAULT_URL}.",
        )

    def _late(self) -> TimedOut:
        return TimedOut(
            f"cannot get an answer from Ollama at {self.base_url}: none came within {self._seconds:g} s",
            hint="A model is loaded at its first use: run it again, give --timeout-seconds, or take a smaller --model.",
        )

    def _unreachable(self, cause: object) -> MissingDependency:
        why = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        return MissingDependency(
            f"cannot reach Ollama at {self.base_url}: {why[:TOLD_CHARS]}",
            hint="Start it with `ollama serve`, or say where it is with --base-url.",
        )

    def _unreadable(self, why: str) -> ProtocolError:
        return ProtocolError(
            f"cannot read the answer of {self.base_url}: {why}", hint="Is it Ollama that listens there? See --base-url."
        )


def _told(error: urllib.error.HTTPError) -> str:
    """The `error` of an answer that is Ollama's, else an empty text."""
    try:
        answer = json.loads(error.read(ANSWER_BYTES))
    except (ValueError, OSError, http.client.HTTPException):
        return ""
    return str(answer["error"]) if isinstance(answer, dict) and answer.get("error") else ""


def _checked(base_url: str) -> str:
    """`base_url` with its scheme and without a slash at its end. Raises `InvalidArgument`."""
    whole = base_url if "://" in base_url else f"http://{base_url}"
    try:
        parts = urlsplit(whole)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(one.isspace() or not one.isprintable() for one in whole):
        raise InvalidArgument(f"cannot use {base_url[:200]!r} as an address", hint=f"Write it like {DEFAULT_URL}.")
    return whole.rstrip("/")
