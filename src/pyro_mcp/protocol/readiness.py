"""Readiness: how a service shows that it is ready, as a mapping with one key. Host and agent read it alike.

    {"file": "run/ready"}             a path in the machine, absolute or below /workspace, exists
    {"tcp": "127.0.0.1:8000"}         something accepts connections there; a bare port means 127.0.0.1
    {"http": "http://127.0.0.1/up"}   an answer with a status from 200 to 399; redirects are not followed
    {"command": "test -s f"}          it ends with 0: a line for the shell, or a list of words

A service is asked inside its machine only, so addresses are loopback ones; no name but `localhost` is ever looked up.
"""

from __future__ import annotations

import _socket
from typing import Any, NamedTuple

KINDS = ("file", "tcp", "http", "command")
MAX_TEXT = 4096
MAX_WORDS = 256
Address = tuple[int, str, int]
ADDRESS_RULE = "a readiness probe dials the machine itself only: localhost, 127.x.x.x or [::1]"


class Readiness(NamedTuple):
    """One checked condition. `addresses` in the order to try; `target` and `host` are an HTTP request's;
    with `shell` the `command` is a line for /bin/sh, or for bash where there is one."""

    kind: str
    path: str = ""
    addresses: tuple[Address, ...] = ()
    target: str = "/"
    host: str = ""
    command: tuple[str, ...] = ()
    shell: bool = False


def parse(value: Any) -> Readiness:
    """The condition that `value` states. Raises `ValueError` with the rule that it breaks."""
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in KINDS:
        raise ValueError(f"readiness takes exactly one of {', '.join(KINDS)}")
    kind, requested = next(iter(value.items()))
    if not _is_text(requested):
        raise ValueError(f"readiness {kind} takes text")
    if kind == "command":
        return Readiness(kind, command=_words(requested), shell=isinstance(requested, str))
    if isinstance(requested, list) or not 0 < len(requested) <= MAX_TEXT or "\0" in requested:
        raise ValueError(f"readiness {kind} takes a text of 1 to {MAX_TEXT} characters without NUL")
    if kind == "file":
        return Readiness(kind, path=_path(requested))
    return Readiness(kind, addresses=_addresses(requested, None)) if kind == "tcp" else _http(requested)


def _is_text(requested: Any) -> bool:
    """Whether `requested` is, or holds, nothing that no system call could take."""
    try:
        return all(
            isinstance(one, str) and one.encode("utf-8", "surrogateescape") is not None for one in _each(requested)
        )
    except UnicodeEncodeError:
        return False


def _each(requested: Any) -> list[Any]:
    return requested if isinstance(requested, list) else [requested]


def _words(requested: Any) -> tuple[str, ...]:
    words = ["/bin/sh", "-c", requested] if isinstance(requested, str) else requested
    rule = f"readiness command takes a line or a list of up to {MAX_WORDS} words, without NUL"
    if not 0 < len(words) <= MAX_WORDS or not words[0] or not words[-1]:
        raise ValueError(rule)
    if any("\0" in one or len(one) > MAX_TEXT for one in words):
        raise ValueError(rule)
    return tuple(words)


def _path(requested: str) -> str:
    if ".." in requested.split("/"):
        raise ValueError("readiness file takes a path without '..'")
    return requested if requested.startswith("/") else f"/workspace/{requested}"


def _http(url: str) -> Readiness:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("readiness http takes a URL of printable ASCII characters without blanks")
    if not url.lower().startswith("http://"):
        raise ValueError("readiness http takes a URL that begins with http:// (for anything else use tcp or command)")
    rest = url[len("http://") :].partition("#")[0]
    end = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    authority, target = rest[:end], rest[end:]
    target = target if target.startswith("/") else f"/{target}"
    return Readiness("http", addresses=_addresses(authority, 80), target=target, host=authority)


def _addresses(text: str, default: int | None) -> tuple[Address, ...]:
    host, port = _split(text, default)
    if host in ("localhost", "localhost."):
        return ((_socket.AF_INET, "127.0.0.1", port), (_socket.AF_INET6, "::1", port))
    # What a server binds to when it listens everywhere is reached on loopback.
    if host in ("0.0.0.0", "", "*"):
        host = "127.0.0.1"
    try:
        if _socket.inet_pton(_socket.AF_INET, host)[0] == 127:
            return ((_socket.AF_INET, host, port),)
    except (OSError, ValueError):
        pass
    if host in ("[::1]", "[::]"):
        return ((_socket.AF_INET6, "::1", port),)
    raise ValueError(f"{ADDRESS_RULE}, not {host[:80]!r}")


def _split(text: str, default: int | None) -> tuple[str, int]:
    if text.endswith("]") and default is not None:
        return text, default
    host, colon, port = text.rpartition(":")
    if not colon:
        if default is not None:
            return text, default
        host, port = "127.0.0.1", text
    if not port.isascii() or not port.isdigit() or len(port) > 5 or not 1 <= int(port) <= 65535:
        raise ValueError(f"a port is a number from 1 to 65535, not {port[:40]!r}")
    return host, int(port)
