"""Edits of one file: each replaces a text that stands there exactly once, or everywhere when it says so.

Bytes that no edit names stay as they are: line ends, a missing last newline, a byte-order mark, bytes that are not
UTF-8. Line ends are the one thing a caller need not have right: where a text is not there as given, but is with the
file's own line ends, that is what was meant, and what replaces it gets them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.count import count_of
from pyro_mcp.trees.nearest import difference

LINES_NAMED = 10
MAX_SIZE = 32 * 1024 * 1024
"""Bytes of a file that can be edited, before and after."""

LineEnds = Literal["crlf", "lf"]


@dataclass(frozen=True)
class Edit:
    """Replace `old` by `new`: the one place where it stands, or `everywhere`."""

    old: str
    new: str
    everywhere: bool = False


@dataclass(frozen=True)
class Edited:
    """What became of the file. `first_line` is the first that may differ, from 1; `line_ends` are the file's, where a
    text was given with others."""

    content: bytes
    replacements: int
    first_line: int
    line_ends: LineEnds | None


def edit(path: str, content: bytes | None, edits: Sequence[Edit]) -> Edited:
    """`content` after all `edits`, each on the result of the one before; None: there is no file yet.

    Raises `InvalidArgument` that names the edit, and what stands there instead.
    """
    if b"\0" in (content or b""):
        raise InvalidArgument(f"cannot edit {path}: it is a binary file", hint="Change it with a command.")
    work = _Work((content or b"").decode("utf-8", "surrogateescape"))
    for number, one in enumerate(edits, 1):
        where = f"cannot edit {path}" + (f": edit {number} of {len(edits)}" if len(edits) > 1 else "")
        work.apply(one, where)
    return Edited(
        work.text.encode("utf-8", "surrogateescape"),
        work.replacements,
        work.text.count("\n", 0, work.first) + 1,
        work.line_ends,
    )


class _Work:
    """A text under way; what is not UTF-8 in it stands as lone surrogates."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.replacements = 0
        self.first = len(text)
        """Up to here nothing was touched, so this place is the same before and after."""
        self.line_ends: LineEnds | None = None

    def apply(self, edit: Edit, where: str) -> None:
        self._check(edit, where)
        old, new = self._as_in_file(edit)
        places = _places(self.text, old) if old else [0]
        if not places:
            cause, hint = difference(self.text, old)
            raise InvalidArgument(f"{where}: the text to replace is not in it: {cause}", hint=hint)
        if len(places) > 1 and not edit.everywhere:
            raise self._ambiguous(places, where)
        count = self.text.count(old) if old else 1
        size = len(self.text.encode("utf-8", "surrogateescape")) + count * (len(new.encode()) - len(old.encode()))
        if size > MAX_SIZE:
            raise InvalidArgument(f"{where}: it would have {count_of(size, 'byte')}; at most {MAX_SIZE} can be edited")
        self.text = self.text.replace(old, new) if old else new
        self.replacements += count
        self.first = min(self.first, places[0])

    def _check(self, edit: Edit, where: str) -> None:
        if edit.old == edit.new and edit.old:
            raise InvalidArgument(
                f"{where}: the text to replace and the new one are the same", hint="Leave this edit out."
            )
        if not edit.old and self.text:
            hint = "Give the text that is to be replaced; <<write_workspace_file>> replaces a file as a whole."
            raise InvalidArgument(f"{where}: the text to replace is empty, but the file is not", hint=hint)
        try:
            edit.old.encode()
            edit.new.encode()
        except UnicodeEncodeError:
            hint = "Leave out lone surrogates; change binary content with a command."
            raise InvalidArgument(f"{where}: the text is not valid Unicode", hint=hint) from None
        if not edit.new.isascii() and not _is_utf8(self.text):
            hint = "Change it with a command that knows its encoding, or write in ASCII."
            raise InvalidArgument(f"{where}: the file is not UTF-8, and the new text is not ASCII", hint=hint)

    def _as_in_file(self, edit: Edit) -> tuple[str, str]:
        """Both texts of `edit` with the file's line ends, where they were given with others."""
        breaks, windows = self.text.count("\n"), self.text.count("\r\n")
        if edit.old and edit.old in self.text:
            plain = "\r\n" not in edit.old and "\n" in edit.new.replace("\r\n", "")
            if plain and windows and windows == breaks:
                self.line_ends = "crlf"
                return edit.old, _crlf(edit.new)
            return edit.old, edit.new
        if windows and _crlf(edit.old) in self.text and "\n" in edit.old:
            self.line_ends = "crlf"
            return _crlf(edit.old), _crlf(edit.new)
        if "\r\n" in edit.old and _lf(edit.old) in self.text:
            self.line_ends = "lf"
            return _lf(edit.old), _lf(edit.new)
        return edit.old, edit.new

    def _ambiguous(self, places: list[int], where: str) -> InvalidArgument:
        lines = list(dict.fromkeys(self.text.count("\n", 0, at) + 1 for at in places[:LINES_NAMED]))
        more = " and more" if len(places) > LINES_NAMED else ""
        named = f"line {lines[0]}" if len(lines) == 1 and not more else f"lines {', '.join(map(str, lines))}{more}"
        count = count_of(len(places), "time") if len(places) < MAX_PLACES else f"at least {MAX_PLACES} times"
        return InvalidArgument(
            f"{where}: the text to replace stands in it {count}, in {named}",
            hint="Give more of the lines around the one that is meant, or replace all of them"
            " (<<edit_workspace_file.replace_all>>).",
        )


MAX_PLACES = 1000


def _places(text: str, old: str) -> list[int]:
    """Where `old` begins in `text`, those that overlap too; not more than `MAX_PLACES`."""
    found: list[int] = []
    at = text.find(old)
    while at >= 0 and len(found) < MAX_PLACES:
        found.append(at)
        at = text.find(old, at + 1)
    return found


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lf(text: str) -> str:
    return text.replace("\r\n", "\n")


def _crlf(text: str) -> str:
    return _lf(text).replace("\n", "\r\n")
