"""Escapes: which escape sequences of a guest reach the user's terminal.

Text, line ends, tabs, backspaces and colours (SGR) pass. Everything that talks to the terminal rather than to the
reader is dropped: OSC (titles, clipboard, links), DCS and its kin, cursor and mode changes, C1 controls. Bidirectional
controls, which make text read other than it is, become U+FFFD. Only a terminal gets filtered output; a pipe or a file
gets the bytes as they are.
"""

from __future__ import annotations

import codecs
import re
from typing import Literal

from pyro_mcp.model.escapes import (
    ABORTS,
    BIDI,
    CONTROLS,
    ESC,
    FINALS,
    INTERMEDIATES,
    PARAMETERS,
    SEQUENCE,
    SEQUENCE_8BIT,
    STRING_ENDS,
    STRINGS,
    STRINGS_8BIT,
)

_SPECIAL = re.compile(f"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f{BIDI}]")
_IS_BIDI = re.compile(f"[{BIDI}]")
_COLOUR = re.compile(r"[0-9;:]{0,64}")
_IN_SEQUENCE = PARAMETERS + INTERMEDIATES
_MAX_SEQUENCE = 128

State = Literal["ground", "escape", "sequence", "string", "string_escape"]


class EscapeFilter:
    """A streaming filter: feed it bytes in pieces of any size, write what it returns, and `finish` at the end."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._state: State = "ground"
        self._sequence = ""
        self._coloured = False

    def feed(self, data: bytes) -> str:
        """The harmless text of `data`, as far as it can be judged yet."""
        return self._filter(self._decoder.decode(data))

    def finish(self) -> str:
        """What is still owed: the rest of a torn character, and the end of a colour."""
        rest = self._filter(self._decoder.decode(b"", True))
        self._state = "ground"
        if self._coloured:
            self._coloured = False
            rest += "\x1b[0m"
        return rest

    def _filter(self, text: str) -> str:
        kept: list[str] = []
        at = 0
        while at < len(text):
            if self._state == "ground":
                special = _SPECIAL.search(text, at)
                end = special.start() if special else len(text)
                kept.append(text[at:end])
                at = end
                if special:
                    kept.append(self._control(text[at]))
                    at += 1
            elif text[at] in ABORTS:
                self._state = "ground"
                at += text[at] != "\n"
            else:
                kept.append(self._inside(text[at]))
                at += 1
        return "".join(kept)

    def _control(self, char: str) -> str:
        """A special character in plain text: what is shown of it."""
        if char == ESC:
            self._state = "escape"
        elif char == SEQUENCE_8BIT:
            self._state, self._sequence = "sequence", ""
        elif char in STRINGS_8BIT:
            self._state = "string"
        elif _IS_BIDI.match(char):
            return "\ufffd"
        return ""

    def _inside(self, char: str) -> str:
        """One character within an escape sequence: what is shown of it."""
        if self._state == "escape":
            self._after_escape(char)
        elif self._state == "sequence":
            return self._in_sequence(char)
        elif self._state == "string_escape":
            self._state = "ground"
            if char != "\\":
                self._after_escape(char)
        elif char == ESC:
            self._state = "string_escape"
        elif char in STRING_ENDS:
            self._state = "ground"
        return ""

    def _after_escape(self, char: str) -> None:
        if char == SEQUENCE:
            self._state, self._sequence = "sequence", ""
        elif char in STRINGS:
            self._state = "string"
        elif char == ESC or char in INTERMEDIATES:
            self._state = "escape"
        else:
            self._state = "ground"

    def _in_sequence(self, char: str) -> str:
        if char == ESC:
            self._state = "escape"
        elif char in FINALS:
            self._state = "ground"
            if char == "m" and _COLOUR.fullmatch(self._sequence):
                self._coloured = self._sequence not in ("", "0")
                return f"\x1b[{self._sequence}m"
        elif char in _IN_SEQUENCE and len(self._sequence) < _MAX_SEQUENCE:
            self._sequence += char
        else:
            self._state = "ground"
        return ""


def plain(text: str) -> str:
    """`text` on one line without any control: for names and messages that a guest or a file had a hand in."""
    return re.sub(f"[{CONTROLS}{BIDI}]", "\ufffd", text)
