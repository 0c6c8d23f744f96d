"""Greeter: answers what a host asks before it calls anything, while the MCP library is not there yet.

Importing that library takes a second of a busy machine, for which a host waits, or does not. The few messages of a
handshake are answered here, byte for byte as the library would (a test compares them in every version of the protocol).
Whatever is not exactly as expected here is the library's to judge: it gets that message, and before it what opened
the connection, so that it stands where the host believes it to be.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from pyro_mcp.surfaces.mcp.offer import Offer
from pyro_mcp.surfaces.mcp.wire import Message, encode

HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSION = "2026-07-28"
_PREFIX = "io.modelcontextprotocol/"

JsonObject = dict[str, Any]

# What a client tells of itself. Of what is not declared here, the library reads nothing.


class _Icon(msgspec.Struct):
    src: str
    mimeType: str | None = None
    sizes: list[str] | None = None
    theme: Literal["light", "dark"] | None = None


class _Info(msgspec.Struct):
    name: str
    version: str
    title: str | None = None
    description: str | None = None
    websiteUrl: str | None = None
    icons: list[_Icon] | None = None


class _Roots(msgspec.Struct):
    listChanged: bool | None = None


class _Elicitation(msgspec.Struct):
    form: JsonObject | None = None
    url: JsonObject | None = None


class _Sampling(msgspec.Struct):
    context: JsonObject | None = None
    tools: JsonObject | None = None


class _TasksOfElicitation(msgspec.Struct):
    create: JsonObject | None = None


class _TasksOfSampling(msgspec.Struct):
    createMessage: JsonObject | None = None


class _TaskRequests(msgspec.Struct):
    elicitation: _TasksOfElicitation | None = None
    sampling: _TasksOfSampling | None = None


class _Tasks(msgspec.Struct):
    cancel: JsonObject | None = None
    list: JsonObject | None = None
    requests: _TaskRequests | None = None


class _Capabilities(msgspec.Struct):
    elicitation: _Elicitation | None = None
    experimental: dict[str, JsonObject] | None = None
    extensions: dict[str, JsonObject] | None = None
    roots: _Roots | None = None
    sampling: _Sampling | None = None
    tasks: _Tasks | None = None


class _Hello(msgspec.Struct):
    protocolVersion: str
    capabilities: _Capabilities
    clientInfo: _Info
    _meta: None = None


class _Envelope(msgspec.Struct):
    version: str = msgspec.field(name=f"{_PREFIX}protocolVersion")
    capabilities: _Capabilities = msgspec.field(name=f"{_PREFIX}clientCapabilities")
    info: _Info | None = msgspec.field(name=f"{_PREFIX}clientInfo", default=None)
    logging: None = msgspec.field(name=f"{_PREFIX}logLevel", default=None)


class Greeter:
    """One connection, up to the first message that is not of a handshake."""

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._version: str | None = None
        self.opening: list[Message] = []
        """What the library has to hear first, when it takes over."""

    def answer(self, message: Message) -> bytes | None:
        """The line that answers `message`, empty for what is not answered; None when the library has to."""
        if "method" not in message:
            return None
        if "id" not in message:
            return self._note(message)
        params = message.get("params") or {}
        meta = params.get("_meta", {})
        plain = isinstance(meta, dict) and type(meta.get("progressToken", 0)) in (int, str)
        if not plain or params.get("cursor") is not None:
            return None
        answered = self._modern if f"{_PREFIX}protocolVersion" in meta else self._handshake
        result = answered(message, params)
        return encode({"jsonrpc": "2.0", "id": message["id"], "result": result}) if result is not None else None

    def _note(self, message: Message) -> bytes | None:
        if message["method"] == "notifications/initialized" and self._version:
            self.opening[1:] = [message]
            return b""
        # Nothing runs here that could be cancelled.
        return b"" if message["method"] == "notifications/cancelled" else None

    def _handshake(self, message: Message, params: JsonObject) -> JsonObject | None:
        method = message["method"]
        if method == "initialize" and self._version is None:
            hello = _fits(params, _Hello)
            if hello is None or hello.protocolVersion not in HANDSHAKE_VERSIONS:
                return None
            self._open(message, hello.protocolVersion)
            return self._welcome(hello.protocolVersion)
        if self._version not in HANDSHAKE_VERSIONS:
            return None
        if method == "ping":
            return {}
        listed = self._offer.lists.get(method)
        return _in_model_order(listed) if listed else None

    def _modern(self, message: Message, params: JsonObject) -> JsonObject | None:
        method = message["method"]
        envelope = _fits(params["_meta"], _Envelope)
        if envelope is None or envelope.version != MODERN_VERSION or self._version in HANDSHAKE_VERSIONS:
            return None
        if method == "server/discover":
            result = self._discovery()
        elif method in self._offer.lists:
            shared = {"cacheScope": "private", "resultType": "complete", "ttlMs": 0}
            result = dict(sorted({**shared, **self._offer.lists[method]}.items()))
        else:
            return None
        if self._version is None:
            self._open(message, MODERN_VERSION)
        return {**result, "_meta": {f"{_PREFIX}serverInfo": self._offer.implementation}}

    def _open(self, message: Message, version: str) -> None:
        self._version = version
        self.opening.append(message)

    def _welcome(self, version: str) -> JsonObject:
        return {
            "capabilities": self._offer.capabilities,
            "instructions": self._offer.instructions,
            "protocolVersion": version,
            "serverInfo": self._offer.implementation,
        }

    def _discovery(self) -> JsonObject:
        return {
            "cacheScope": "private",
            "capabilities": self._offer.capabilities,
            "instructions": self._offer.instructions,
            "resultType": "complete",
            "supportedVersions": [MODERN_VERSION],
            "ttlMs": 0,
        }


def _fits(value: JsonObject, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def _in_model_order(listed: JsonObject) -> JsonObject:
    """Schemas as the versions with a handshake write them."""
    if "tools" not in listed:
        return listed
    return {"tools": [{name: _ordered(name, part) for name, part in tool.items()} for tool in listed["tools"]]}


def _ordered(name: str, part: Any) -> Any:
    if not name.endswith("Schema"):
        return part
    return {key: part[key] for key in ("properties", "required", "type") if key in part} | part
