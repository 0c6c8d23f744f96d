"""glob: file name patterns as people write them, with `**`. Bounded so that no pattern can run away."""

from __future__ import annotations

import re

from pyro_mcp.guest.errors import invalid

MAX_STARS = 8


class Glob:
    """`*` and `?` stop at a slash, `**` does not; `[a-z]`, `[!a]` and `{a,b}` work. A pattern without a slash is tried
    on the last component, any other on the path below the listed directory. Raises `AgentError` when malformed."""

    def __init__(self, pattern: str) -> None:
        self._last_only = "/" not in pattern
        if pattern.replace("**", "*").count("*") > MAX_STARS:
            raise invalid(f"the pattern has more than {MAX_STARS} stars")
        try:
            self._match = re.compile(translate(pattern.removeprefix("./").encode("utf-8", "surrogateescape"))).fullmatch
        except (re.error, OverflowError, RecursionError) as error:
            raise invalid(f"the pattern is malformed: {error}") from None

    def matches(self, path: bytes) -> bool:
        return self._match(path.rpartition(b"/")[2] if self._last_only else path) is not None


def translate(pattern: bytes) -> bytes:
    """The regular expression that a glob stands for."""
    out, at, depth = [b"(?s:"], 0, 0
    while at < len(pattern):
        piece, used = _star_or_class(pattern, at)
        if not used:
            piece, used = pattern[at : at + 1], 1
            if piece == b"{":
                depth, piece = depth + 1, b"(?:"
            elif piece == b"}" and depth:
                depth, piece = depth - 1, b")"
            else:
                piece = b"|" if piece == b"," and depth else re.escape(piece)
        out.append(piece)
        at += used
    return b"".join(out) + b")"


def _star_or_class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """The expression for a wildcard or class at `at` and the length it takes; length 0 when there is none."""
    if pattern.startswith(b"**/", at) and pattern[at - 1 : at] in (b"", b"/", b"{", b","):
        return b"(?:.*/)?", 3
    if pattern.startswith(b"**", at):
        return b".*", 2
    letter = pattern[at : at + 1]
    if letter in (b"*", b"?"):
        return (b"[^/]*" if letter == b"*" else b"[^/]"), 1
    end = _class_end(pattern, at + 1) if letter == b"[" else -1
    if end < 0:
        return b"", 0
    inner = pattern[at + 1 : end]
    for special in (b"\\", b"[", b"&", b"~", b"|"):
        inner = inner.replace(special, b"\\" + special)
    if inner[:1] in (b"!", b"^"):
        inner = b"^" + inner[1:]
    return b"(?!/)[" + inner + b"]", end + 1 - at


def _class_end(pattern: bytes, at: int) -> int:
    """Where the class that begins at `at` ends; -1 when it does not."""
    start = at + 1 if pattern[at : at + 1] in (b"!", b"^") else at
    return pattern.find(b"]", start + 1)
