"""The greeter answers as the library would, byte for byte, or leaves it to the library."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.settings import Settings
from pyro_mcp.surfaces.client import Client
from pyro_mcp.surfaces.mcp.greeter import HANDSHAKE_VERSIONS, MODERN_VERSION, Greeter
from pyro_mcp.surfaces.mcp.library import library_server
from pyro_mcp.surfaces.mcp.server import offer
from pyro_mcp.surfaces.mcp.stream import run
from pyro_mcp.surfaces.mcp.wire import BoundedLines, HostInput, HostOutput, encode

PREFIX = "io.modelcontextprotocol/"
INFO = {"name": "test", "version": "1"}
LISTS = sorted(offer("workspace-core", allow_host_compat=False).lists)


class Left(BaseException):
    """The process would have ended here."""


def by_library(profile: str, *messages: dict[str, Any], opening: tuple[Any, ...] = ()) -> dict[Any, bytes]:
    """What the library answers when nobody greets, by id."""

    def leave() -> Any:
        raise Left

    sink = BytesIO()
    requests = HostInput(BoundedLines(BytesIO(b"".join(encode(one) for one in messages))), HostOutput(sink))
    first = requests.next()
    assert first is not None
    server = library_server(Client(Settings.load({})), offer(profile, allow_host_compat=False))
    try:
        run(server, requests, opening, first, leave)
    except* Left:
        pass
    asked = [one["id"] for one in messages if "id" in one]
    lines = sink.getvalue().splitlines(keepends=True)
    found = {one: next((line for line in lines if f'"id":{one},' in line.decode()), None) for one in asked}
    assert None not in found.values()
    return found  # type: ignore[return-value]


def by_greeter(profile: str, *messages: dict[str, Any]) -> dict[Any, bytes | None]:
    greeter = Greeter(offer(profile, allow_host_compat=False))
    answers = [(one.get("id"), greeter.answer(one)) for one in messages]
    return {request_id: answer for request_id, answer in answers if request_id is not None}


def request(request_id: int, method: str, params: Any = None) -> dict[str, Any]:
    given_params = {} if params is None else {"params": params}
    return {"jsonrpc": "2.0", "id": request_id, "method": method, **given_params}


def hello(version: str, **changes: Any) -> dict[str, Any]:
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": INFO, **changes}
    return request(0, "initialize", params)


INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def envelope(**changes: Any) -> dict[str, Any]:
    return {"_meta": {f"{PREFIX}protocolVersion": MODERN_VERSION, f"{PREFIX}clientCapabilities": {}, **changes}}


@pytest.mark.parametrize("profile", ["vm-run", "workspace-core", "workspace-full"])
@pytest.mark.parametrize("version", HANDSHAKE_VERSIONS)
def test_a_handshake_is_answered_as_by_the_library(profile: str, version: str) -> None:
    methods = sorted(offer(profile, allow_host_compat=False).lists)
    lists = [request(number, method) for number, method in enumerate([*methods, "ping"], 1)]
    messages = [hello(version), INITIALIZED, *lists]
    greeted = by_greeter(profile, *messages)
    assert None not in greeted.values()
    assert greeted == by_library(profile, *messages)


@pytest.mark.parametrize("profile", ["vm-run", "workspace-core", "workspace-full"])
def test_the_era_without_a_handshake_is_answered_as_by_the_library(profile: str) -> None:
    asked = ["server/discover", *sorted(offer(profile, allow_host_compat=False).lists)]
    messages = [request(number, method, envelope()) for number, method in enumerate(asked)]
    greeted = by_greeter(profile, *messages)
    assert None not in greeted.values()
    assert greeted == by_library(profile, *messages)


ODD = (None, True, 0, 2, "", "a", [], {}, {"a": {}}, {"a": 1})
CAPABILITIES = ("roots", "sampling", "elicitation", "experimental", "extensions", "tasks", "other")
PARTS = ("listChanged", "form", "url", "context", "tools", "list", "other")
ICON = ("src", "mimeType", "sizes", "theme", "other")
TASKS = ("list", "cancel", "requests")
TASK_PARTS = ("elicitation", "sampling", "other")
PARAMS = [
    *({"capabilities": {name: {part: odd}}} for name in CAPABILITIES for part in PARTS for odd in ODD),
    *({"capabilities": {name: odd}} for name in CAPABILITIES for odd in ODD),
    *({name: odd} for name in ("capabilities", "clientInfo", "protocolVersion", "other") for odd in ODD),
    *(
        {"clientInfo": {**INFO, name: odd}}
        for name in ("name", "version", "title", "description", "websiteUrl", "icons", "other")
        for odd in ODD
    ),
    *({"clientInfo": {**INFO, "icons": [{"src": "a", name: odd}]}} for name in ICON for odd in ODD),
    *({"capabilities": {"tasks": {name: {part: odd}}}} for name in TASKS for part in TASK_PARTS for odd in ODD),
    *({"protocolVersion": version} for version in ("2099-01-01", MODERN_VERSION)),
]


def require_same(*messages: dict[str, Any]) -> bool:
    """Whether the last of `messages` was answered by the greeter; its answers are the library's."""
    greeted = {name: line for name, line in by_greeter("workspace-core", *messages).items() if line is not None}
    if greeted:
        answered = by_library("workspace-core", *messages)
        assert greeted == {name: answered[name] for name in greeted}
    return messages[-1]["id"] in greeted


def test_an_odd_opening_is_answered_as_by_the_library() -> None:
    kept = [require_same(hello("2025-06-18", **params)) for params in PARAMS]
    assert 200 < sum(kept) < len(kept) - 200, "both happen"


def test_an_odd_envelope_is_answered_as_by_the_library() -> None:
    kept = []
    for params in PARAMS:
        changes = {f"{PREFIX}{name.replace('capa', 'clientCapa')}": value for name, value in params.items()}
        kept.append(require_same(request(0, "tools/list", envelope(**changes))))
    assert 200 < sum(kept) < len(kept) - 200


METAS = [{name: odd} for name in ("progressToken", "traceparent", f"{PREFIX}logLevel", "other") for odd in ODD]
ODD_PARAMS = [*ODD, *({"cursor": odd} for odd in ODD), *({"_meta": odd} for odd in (*ODD, *METAS))]


@pytest.mark.parametrize("method", [*LISTS, "ping", "server/discover", "initialize", "other"])
def test_an_odd_question_is_answered_as_by_the_library(method: str) -> None:
    asked = [params if isinstance(params, dict) else {"other": params} for params in ODD_PARAMS]
    for number, params in enumerate(asked, 1):
        require_same(hello("2025-06-18"), INITIALIZED, request(number, method, params))
        require_same(request(number, method, params))
        enveloped = (
            {**params, "_meta": {**envelope()["_meta"], **(params.get("_meta") or {})}}
            if isinstance(params.get("_meta") or {}, dict)
            else params
        )
        require_same(request(number, method, enveloped))


@pytest.mark.parametrize("modern", [False, True])
def test_the_library_goes_on_where_the_greeter_stopped(modern: bool) -> None:
    greeter = Greeter(offer("vm-run", allow_host_compat=False))
    params = envelope() if modern else {}
    opening = [request(0, "server/discover", params)] if modern else [hello("2025-06-18"), INITIALIZED]
    greeted = [greeter.answer(one) for one in [*opening, request(1, "tools/list", params)]]
    assert None not in greeted
    left = request(2, "tools/call", {"name": "no", **params})
    assert greeter.answer(left) is None
    again = by_library("vm-run", left, request(1, "tools/list", params), opening=tuple(greeter.opening))
    assert b"no such tool" in again[2]
    assert again[1] == greeted[-1]


def test_greeting_needs_no_library() -> None:
    """Each of these costs more than all of the greeting."""
    script = (
        "import sys, pyro_mcp.surfaces.mcp.stdio\n"
        "from pyro_mcp.surfaces.mcp.server import offer\n"
        "assert offer('workspace-full', allow_host_compat=False).lists\n"
        "print(sorted({'mcp', 'mcp_types', 'pydantic', 'anyio', 'asyncio', 'rich', 'starlette'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"
