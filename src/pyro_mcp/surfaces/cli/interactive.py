"""Interactive: which escape sequences of a guest's program reach an attached terminal.

Programs that draw (vim, less, top, a REPL) move the cursor, erase, scroll, colour, switch to the alternate screen, and
ask for mouse and paste reports: all that passes. What acts on the terminal beyond its screen is dropped: titles,
clipboard, links and every other OSC, DCS and its kin, window operations, printing, resizing, keyboard protocols,
erasing what was scrolled back; and whatever makes the terminal answer, because the answer arrives as if it were typed,
maybe to the host's own shell a moment later. Every mode that was switched on is switched off at the end.
"""

from __future__ import annotations

import codecs
import re

from pyro_mcp.model.escapes import BIDI, scan

MODES = frozenset({1, 6, 7, 12, 25, 47, 66, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1048, 1049, 2004, 2026})
"""Private modes that programs may set: cursor keys and shape, origin, wrap, alternate screen, mouse, paste."""
_ON_BY_DEFAULT = frozenset({7, 25})
_PLAIN = re.compile(f"[^\x00-\x06\x0e\x10-\x1f\x7f-\x9f{BIDI}]+")
_TURNS = re.compile(f"[{BIDI}]")
_NUMBERS = re.compile(r"[0-9;:]*")
_DRAWING = frozenset("@ABCDEFGHIJKLMPSTXZ`abdefgmrsu")
"""What ends a sequence that draws, with nothing but numbers before it."""


class InteractiveFilter:
    """A streaming filter: feed it bytes in pieces of any size, write what it returns, and `finish` at the end."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._changed: set[int] = set()
        self._drawn = False

    def feed(self, data: bytes) -> str:
        """What of `data` may reach the terminal, as far as it can be judged yet."""
        text = self._pending + self._decoder.decode(data)
        kept: list[str] = []
        self._pending = scan(
            text,
            kept.append,
            lambda char: kept.append(self._control(char)),
            lambda *parts: kept.append(self._escape(*parts)),
            plain=_PLAIN,
        )
        return "".join(kept)

    def finish(self) -> str:
        """What puts the terminal back: the modes that were changed, the colours, the character set, the region."""
        back = ""
        if 1049 in self._changed or 1047 in self._changed or 47 in self._changed:
            # First, because what follows is meant for the screen the person comes back to.
            back += f"\x1b[?{max(self._changed & {47, 1047, 1049})}l"
        for mode in sorted(self._changed - {47, 1047, 1048, 1049}):
            back += f"\x1b[?{mode}{'h' if mode in _ON_BY_DEFAULT else 'l'}"
        if self._drawn:
            back += "\x1b7\x1b[r\x1b8\x1b[0m\x1b[4l\x1b(B\x0f\x1b>\x1b[0 q"
        self._changed.clear()
        self._drawn = False
        return back

    def _control(self, char: str) -> str:
        """What is shown of a character that is not plain: the shift to the drawing characters, and U+FFFD for what
        would turn text round."""
        if char == "\x0e":
            self._drawn = True
            return char
        return "\ufffd" if _TURNS.match(char) else ""

    def _escape(self, params: str, between: str, final: str, before: str, char: str) -> str:
        """The sequence as it may pass, or nothing."""
        if final:
            kept = self._sequence(params, between, final)
        elif before:
            kept = f"\x1b{before}{char}" if before in ("(", ")", "*", "+") and char in "0AB" else ""
        elif char == "c":
            # A full reset takes what was scrolled back along: do what of it is seen.
            kept = "\x1b[!p\x1b[2J\x1b[H"
        else:
            kept = f"\x1b{char}" if char and char in "78DEHM=>" else ""
        self._drawn = self._drawn or bool(kept)
        return kept

    def _sequence(self, params: str, between: str, final: str) -> str:
        if final in "hl" and not between:
            return self._modes(params, final)
        if not _NUMBERS.fullmatch(params):
            return ""
        if final == "J" and params == "3":
            return ""
        drawing = (not between and final in _DRAWING) or (between, final) in ((" ", "q"), ("!", "p"))
        return f"\x1b[{params}{between}{final}" if drawing else ""

    def _modes(self, params: str, final: str) -> str:
        if not params.startswith("?"):
            return f"\x1b[4{final}" if params == "4" else ""
        requested = [int(one) for one in params[1:].split(";") if one.isascii() and one.isdigit() and int(one) in MODES]
        for mode in requested:
            if (final == "h") != (mode in _ON_BY_DEFAULT):
                self._changed.add(mode)
            else:
                self._changed.discard(mode)
        return f"\x1b[?{';'.join(map(str, requested))}{final}" if requested else ""
