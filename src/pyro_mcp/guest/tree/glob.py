"""glob: file name patterns as people write them, with `**` and `{a,b}`, bounded so that no pattern can run away."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pyro_mcp.guest.errors import invalid
from pyro_mcp.guest.tree.wildcard import NEVER, name_pattern, path_pattern

MAX_ALTERNATIVES = 256


class Glob:
    """`*` and `?` stop at a slash, `**` does not; `[a-z]`, `[!a]` and `{a,b}` work. A pattern without a slash is tried
    on the last component, any other on the path below the listed directory. Raises `AgentError` when malformed."""

    def __init__(self, pattern: str) -> None:
        self._last_only = "/" not in pattern
        made = name_pattern if self._last_only else path_pattern
        parts: list[bytes] = []
        for plain in _alternatives(pattern.removeprefix("./").encode("utf-8", "surrogateescape")):
            # In an ignore file a backslash means something; here it is a letter as any other.
            parts += map(made, _crossing(plain.replace(b"\\", b"\\\\")))
            if len(parts) > MAX_ALTERNATIVES:
                raise invalid(f"the pattern stands for more than {MAX_ALTERNATIVES} others")
        if any(NEVER in part for part in parts):
            raise invalid("the pattern is malformed: a [ is not closed, or a range ends before it begins")
        self._match = re.compile(b"(?s:" + b"|".join(parts) + b")").fullmatch

    def matches(self, path: bytes) -> bool:
        return self._match(path.rpartition(b"/")[2] if self._last_only else path) is not None


def _alternatives(pattern: bytes) -> Iterator[bytes]:
    """What `pattern` stands for: each choice of what is in its braces."""
    begin = pattern.find(b"{")
    if begin < 0:
        yield pattern
        return
    choices, depth, at = [b""], 0, begin
    for at in range(begin, len(pattern)):
        letter = pattern[at : at + 1]
        depth += (letter == b"{") - (letter == b"}")
        if not depth:
            break
        if letter == b"," and depth == 1:
            choices.append(b"")
        elif at > begin:
            choices[-1] += letter
    else:
        raise invalid("the pattern is malformed: a { is not closed")
    for choice in choices:
        yield from _alternatives(pattern[:begin] + choice + pattern[at + 1 :])


def _crossing(pattern: bytes) -> Iterator[bytes]:
    """`pattern`, and if a `**` stands within a name, once more with that name broken where it stands."""
    yield pattern
    names = pattern.split(b"/")
    for number, name in enumerate(names):
        left, stars, right = name.partition(b"**")
        if stars and (left or right):
            yield b"/".join([*names[:number], left + b"*", b"**", b"*" + right, *names[number + 1 :]])
