"""Jsonfile: a table of servers in JSON, with or without comments, changed in place.

No well-kept library changes JSON and keeps its comments, so the text is: comments and trailing commas are blanked out
at equal length, and the standard library's scanner says where in it each member begins and ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro_mcp.hosts.formats import Format, same

# What does not end is taken to the end, for the parser to refuse: to look for each one's end again would take forever.
_STRING = r'"(?:[^"\\\n]|\\.)*"?'
_COMMENT = re.compile(rf"{_STRING}|//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_TRAILING_COMMA = re.compile(rf"{_STRING}|,(?=\s*[}}\]])")
_SPACE = re.compile(r"\s*")
_LINE_INDENT = re.compile(r"^[ \t]+(?=\S)", re.MULTILINE)
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class _Member:
    """One `key: value` of an object, as offsets of the text."""

    key: str
    start: int
    value: int
    end: int


class JsonFormat(Format):
    """JSON; with `comments` as most hosts read it, otherwise to the letter."""

    def __init__(self, *keys: str, comments: bool = True) -> None:
        super().__init__(*keys)
        self._comments = comments

    def load(self, text: str) -> dict[str, Any]:
        plain = blank(text) if self._comments else text
        document = json.loads(plain, object_pairs_hook=_unique) if plain.strip() else {}
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")
        return document

    def edit(self, text: str, name: str, entry: Mapping[str, Any] | None) -> str:
        if not blank(text).strip():
            text = text + ("\n" if text and not text.endswith("\n") else "") + "{}\n"
        return _remove(text, [*self.keys, name]) if entry is None else _set(text, [*self.keys, name], dict(entry))


def blank(text: str) -> str:
    """`text` as strict JSON of the same length: comments and trailing commas are spaces."""
    return _TRAILING_COMMA.sub(lambda found: found[0] if found[0].startswith('"') else " ", uncommented(text))


def uncommented(text: str) -> str:
    """`text` with spaces for comments."""
    return _COMMENT.sub(lambda found: found[0] if found[0].startswith('"') else _spaces(found[0]), text)


def _spaces(comment: str) -> str:
    if comment.startswith("/*") and (len(comment) < 4 or not comment.endswith("*/")):
        raise ValueError("a comment does not end")
    return re.sub(r"[^\n]", " ", comment)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:64]!r} stands twice in one object")
        found[key] = value
    return found


def _members(plain: str, start: int) -> tuple[list[_Member], int]:
    """The members of the object that begins at `start` of valid JSON, and where its closing brace is."""
    members: list[_Member] = []
    at = _skip(plain, start + 1)
    while plain[at] != "}":
        key, end = _DECODER.raw_decode(plain, at)
        value = _skip(plain, _skip(plain, end) + 1)
        _, end = _DECODER.raw_decode(plain, value)
        members.append(_Member(key, at, value, end))
        at = _skip(plain, end)
        if plain[at] == ",":
            at = _skip(plain, at + 1)
    return members, at


def _skip(plain: str, at: int) -> int:
    found = _SPACE.match(plain, at)
    return found.end() if found else at


def _set(text: str, path: list[str], value: Any) -> str:
    plain = blank(text)
    start = _skip(plain, 0)
    for depth, key in enumerate(path):
        members, close = _members(plain, start)
        member = next((one for one in members if one.key == key), None)
        if member is None:
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _insert(text, start, members, close, key, value)
        if depth + 1 < len(path):
            start = member.value
    return _update(text, start, path[-1], value)


def _update(text: str, start: int, key: str, value: Any) -> str:
    """Replace what differs of an entry, so that comments between its keys stay; of another form, the whole."""
    while True:
        plain = blank(text)
        member = _named(plain, start, key)
        old = json.loads(plain[member.value : member.end])
        if not isinstance(old, dict) or not isinstance(value, dict):
            return text[: member.value] + _dump(text, value, _indent_at(text, member.start)) + text[member.end :]
        if same(old, value):
            return text
        inner, close = _members(plain, member.value)
        for one in inner:
            if one.key not in value:
                text = _cut(text, inner, one)
                break
            if not same(old[one.key], value[one.key]):
                new = _dump(text, value[one.key], _indent_at(text, one.start))
                text = text[: one.value] + new + text[one.end :]
                break
        else:
            missing = next(name for name in value if name not in old)
            text = _insert(text, member.value, inner, close, missing, value[missing])


def _named(plain: str, start: int, key: str) -> _Member:
    return next(one for one in _members(plain, start)[0] if one.key == key)


def _insert(text: str, start: int, members: list[_Member], close: int, key: str, value: Any) -> str:
    """A new last member of the object between `start` and `close`."""
    unit = _unit(text)
    outer = _indent_at(text, start)
    inner = _indent_at(text, members[-1].start) if members and _leads_line(text, members[-1].start) else outer + unit
    line = f"\n{inner}{json.dumps(key)}: {_dump(text, value, inner)}"
    last = len(text[:close].rstrip())
    tail = text[last:close] if "\n" in text[last:close] else f"\n{outer}"
    if not members:
        return text[:last] + line + tail + text[close:]
    end = members[-1].end
    after = uncommented(text)[end:close]
    if "," in after:
        return text[:last] + line + "," + tail + text[close:]
    return text[:end] + "," + text[end:last] + line + tail + text[close:]


def _remove(text: str, path: list[str]) -> str:
    plain = blank(text)
    start = _skip(plain, 0)
    for key in path[:-1]:
        start = _named(plain, start, key).value
    members, _ = _members(plain, start)
    return _cut(text, members, next(one for one in members if one.key == path[-1]))


def _cut(text: str, members: list[_Member], member: _Member) -> str:
    """`text` without `member` and one comma; its line goes too if nothing else stands there."""
    bare, at = uncommented(text), members.index(member)
    comma = _skip(bare, member.end)
    if bare[comma] == ",":
        text = text[: member.start] + text[member.end : comma] + text[comma + 1 :]
        return _without_blank_line(text, member.start)
    text = text[: member.start] + text[member.end :]
    if not at:
        return _without_blank_line(text, member.start)
    comma = bare.index(",", members[at - 1].end)
    return _without_blank_line(text[:comma] + text[comma + 1 :], member.start - 1)


def _without_blank_line(text: str, at: int) -> str:
    start, end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
    return text[:start] + text[end + 1 :] if start and end >= 0 and not text[start:end].strip() else text


def _dump(text: str, value: Any, indent: str) -> str:
    unit = _unit(text)
    if isinstance(value, list) and all(not isinstance(one, dict | list) for one in value):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict) and value:
        lines = [f"{indent}{unit}{json.dumps(key)}: {_dump(text, one, indent + unit)}" for key, one in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return json.dumps(value, ensure_ascii=False)


def _unit(text: str) -> str:
    """The file's step of indentation."""
    found = _LINE_INDENT.search(uncommented(text))
    return found[0] if found else "  "


def _indent_at(text: str, at: int) -> str:
    """The indentation of the line that holds offset `at`."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _leads_line(text: str, at: int) -> bool:
    return not text[text.rfind("\n", 0, at) + 1 : at].strip()
