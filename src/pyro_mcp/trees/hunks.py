"""Applies hunks to a file: at the line of the header, or where their lines are now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.count import count_of
from pyro_mcp.trees.names import show
from pyro_mcp.trees.patch_text import Hunk, split_lines

_EXCERPT = 12
_WINDOW = 200
_LEVELS: tuple[Callable[[bytes], bytes], ...] = (
    lambda line: line,
    lambda line: line.rstrip(b"\r\n"),
    lambda line: line.rstrip(),
)
"""How lines are compared: as they are; without line ends (a patch in LF for a file in CRLF, a forgotten "No newline"
mark); without any white space at the end. The first way that fits anywhere counts."""


@dataclass
class _HunkMatch:
    at: int
    level: int


def apply_hunks(name: str, content: bytes, hunks: list[Hunk]) -> bytes:
    """`content` with all `hunks` in it. Lines that stay are kept as they are in the file, ends included.

    Raises `InvalidArgument` naming `name`, the hunk, what it expects and what stands there instead.
    """
    ordered = sorted(hunks, key=lambda hunk: hunk.start or 0)
    if ordered == hunks or any(hunk.start is None for hunk in hunks):
        return _in_order(name, content, hunks)
    try:
        return _in_order(name, content, hunks)
    except InvalidArgument:
        return _in_order(name, content, ordered)


def _in_order(name: str, content: bytes, hunks: list[Hunk]) -> bytes:
    lines = split_lines(content)
    result: list[bytes] = []
    done, drift = 0, 0
    for hunk in hunks:
        match = _find(lines, done, hunk, drift)
        if match is None:
            raise _misfit(name, lines, done, hunk, drift)
        result += lines[done : match.at]
        result += _replaced(lines, match, hunk)
        done = match.at + len(hunk.side(b"-"))
        drift = match.at - _expected(hunk, 0) if hunk.start is not None else drift
    result += lines[done:]
    # Only the last line may lack its end.
    ended = [line if line.endswith(b"\n") else line + b"\n" for line in result[:-1]]
    return b"".join([*ended, *result[-1:]])


def _expected(hunk: Hunk, drift: int) -> int:
    """The index the header means. A hunk without old lines goes behind the line it names."""
    assert hunk.start is not None
    return hunk.start - (1 if hunk.side(b"-") else 0) + drift


def _find(lines: list[bytes], begin: int, hunk: Hunk, drift: int) -> _HunkMatch | None:
    old = hunk.side(b"-")
    if not old:
        spot = 0 if not lines else _expected(hunk, drift) if hunk.start is not None else -1
        return _HunkMatch(spot, 0) if begin <= spot <= len(lines) else None
    for level, key in enumerate(_LEVELS):
        target = [key(line) for line in old]
        present = lines if level == 0 else [key(line) for line in lines]
        at = None if hunk.start is None else _expected(hunk, drift)
        if at is not None and at >= begin and present[at : at + len(old)] == target:
            return _HunkMatch(at, level)
        places = _occurrences(present, target, begin)
        if places and (at is not None or len(places) == 1):
            return _HunkMatch(min(places, key=lambda match: abs(match - (at or 0))), level)
        if places:
            return None
    return None


def _occurrences(present: list[bytes], target: list[bytes], begin: int) -> list[int]:
    found = []
    at = begin
    try:
        while True:
            at = present.index(target[0], at)
            if present[at : at + len(target)] == target:
                found.append(at)
            at += 1
    except ValueError:
        return found


def _replaced(lines: list[bytes], match: _HunkMatch, hunk: Hunk) -> list[bytes]:
    if match.level == 0:
        return hunk.side(b"+")
    old = lines[match.at : match.at + len(hunk.side(b"-"))]
    crlf = sum(line.endswith(b"\r\n") for line in old) * 2 > len(old)
    result, at = [], 0
    for sign, line in hunk.lines:
        if sign == b"+":
            plain = line.rstrip(b"\r\n")
            ending = line[len(plain) :] and (b"\r\n" if crlf else b"\n")
            result.append(plain + ending)
            continue
        if sign == b" ":
            result.append(old[at])
        at += 1
    return result


def _misfit(name: str, lines: list[bytes], begin: int, hunk: Hunk, drift: int) -> InvalidArgument:
    old = [_LEVELS[2](line) for line in hunk.side(b"-")]
    present = [_LEVELS[2](line) for line in lines]
    what = f"cannot apply the patch to {name}: hunk {hunk.number}"
    if not old:
        where = "does not say where" if hunk.start is None else f"behind line {hunk.start}, which is not there"
        hint = "Give the hunk a line that stays, before or after the new ones"
        return InvalidArgument(f"{what} only adds lines, {where}", hint=hint)
    if hunk.start is None and len(_occurrences(present, old, begin)) > 1:
        hint = "Give the hunk its line number, or more lines around the change"
        return InvalidArgument(f"{what} has no line number and fits in several places", hint=hint)
    new = [_LEVELS[2](line) for line in hunk.side(b"+")]
    if new and new != old and _occurrences(present, new, begin):
        hint = "The lines it would make are there; leave this hunk out"
        return InvalidArgument(f"{what} seems to be applied already", hint=hint)
    at, wrong = _closest(present, old, begin, _expected(hunk, drift) if hunk.start is not None else begin)
    there = show(present[at + wrong]) if at + wrong < len(present) else "the end of the file"
    cause = f"does not fit: line {at + wrong + 1} should be {_said(old[wrong])} but is {there}"
    return InvalidArgument(f"{what} {cause}", hint=_excerpt(lines, at))


def _closest(present: list[bytes], target: list[bytes], begin: int, expected: int) -> tuple[int, int]:
    """Where most of `target` stands, near `expected`, and which of its lines is the first that does not."""
    expected = max(begin, min(expected, len(present)))
    sample = target[:_WINDOW]
    best, best_score = expected, 0
    for at in sorted(
        range(max(begin, expected - _WINDOW), min(len(present), expected + _WINDOW) + 1),
        key=lambda match: abs(match - expected),
    ):
        score = sum(map(bytes.__eq__, present[at : at + len(sample)], sample))
        if score > best_score:
            best, best_score = at, score
    found = present[best : best + len(target)]
    wrong = next((index for index, (a, b) in enumerate(zip(found, target, strict=False)) if a != b), len(found))
    return best, min(wrong, len(target) - 1)


def _said(line: bytes) -> str:
    return show(line) if line else "empty"


def _excerpt(lines: list[bytes], at: int) -> str:
    shown = [f"{at + index + 1}: {show(line.rstrip())}" for index, line in enumerate(lines[at : at + _EXCERPT])]
    if not shown:
        return f"The file has {count_of(len(lines), 'line')}"
    return "\n".join(["Read the file and make the patch again; there it now says", *shown])
