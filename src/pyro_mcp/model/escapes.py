"""Escapes: how programs write what they say to a terminal (ECMA-48), for whoever draws it and whoever filters it.

A sequence is `ESC [`, parameters, intermediates and one final character. A string is `ESC`, an opener, and all up to
its end. Neither spans a line, so an unfinished one cannot swallow what follows. What is malformed costs its `ESC`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

ESC = "\x1b"
SEQUENCE, SEQUENCE_8BIT = "[", "\x9b"
STRINGS, STRINGS_8BIT = "]PX^_k", "\x90\x98\x9d\x9e\x9f"
STRING_ENDS = "\x07\x9c"
"""Or `ESC \\`."""
ABORTS = "\n\x18\x1a"
INTERMEDIATES = "".join(map(chr, range(0x20, 0x30)))
PARAMETERS = "".join(map(chr, range(0x30, 0x40)))
FINALS = "".join(map(chr, range(0x40, 0x7F)))

CONTROLS = r"\x00-\x1f\x7f-\x9f"
"""Within the brackets of a regular expression, as is `BIDI`."""
BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""What makes text read other than it is."""
TEXT = re.compile(f"[^{CONTROLS}]+")


def _one_of(chars: str) -> str:
    return f"[{re.escape(chars)}]"


_PARAMETERS, _BETWEEN = f"{_one_of(PARAMETERS)}{{0,64}}", f"{_one_of(INTERMEDIATES)}{{0,4}}"
_STRING = f"{_one_of(STRINGS)}[^{re.escape(STRING_ENDS + ABORTS + ESC)}]{{0,65536}}"
_ENDED = rf"(?:{_one_of(STRING_ENDS)}|{ESC}\\|(?={_one_of(ABORTS)}|{ESC}[^\\]))"
_SIMPLE = f"({_BETWEEN})(?!{_one_of(SEQUENCE + STRINGS)})({_one_of(PARAMETERS + FINALS)})"
_ESCAPE = rf"{ESC}(?:\[({_PARAMETERS})({_BETWEEN})({_one_of(FINALS)})|{_STRING}{_ENDED}|{_SIMPLE})"
_BEGUN = rf"{ESC}(?:\[{_PARAMETERS}{_BETWEEN}|{_STRING}{ESC}?|{_BETWEEN})?\Z"


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A whole sequence, and the beginning of one. They take milliseconds to compile, and few programs that import this
    meet any."""
    return re.compile(_ESCAPE), re.compile(_BEGUN)


def scan(
    text: str,
    on_text: Callable[[str], object],
    on_control: Callable[[str], object],
    on_escape: Callable[[str, str, str, str, str], object],
    *,
    plain: re.Pattern[str] = TEXT,
) -> str:
    """Hand out `text` in order; the rest, which may be the beginning of a sequence, to be put before what follows.

    `on_text` gets runs of what is `plain`, `on_control` the other characters. `on_escape` gets a sequence's parameters,
    intermediates and final character, or the intermediates and the character of any other escape, or of a string
    nothing; what is missing is empty.
    """
    at, end = 0, len(text)
    while at < end:
        found = plain.match(text, at)
        if found:
            on_text(found.group())
        elif text[at] == ESC:
            whole, begun = _patterns()
            found = whole.match(text, at)
            if found is None and begun.match(text, at):
                return text[at:]
            if found:
                on_escape(*found.groups(default=""))
        else:
            on_control(text[at])
        at = found.end() if found else at + 1
    return ""
