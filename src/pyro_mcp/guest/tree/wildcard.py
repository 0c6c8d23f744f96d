"""wildcard: patterns of names as git's ignore files have them, as regular expressions that cannot run away.

Both levels work alike: within a name, of what may follow a `*` the first place that fits is as good as any other, and
so is, among the directories of a path, the first that fits what follows `**`. So each is tried once and never again
(`(?>...)`), and the time is at most the product of both lengths.
"""

from __future__ import annotations

import re

_CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"\x21-\x7e",
    b"lower": rb"a-z",
    b"print": rb"\x20-\x7e",
    b"punct": rb"!-/:-@\[-`{-~",
    b"space": rb"\t-\r ",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}
_STAR = object()
NEVER = b"(?!)"
"""The expression for what matches nothing: a class that does not end, or has nothing in it."""
_END = rb"(?=/|\Z)"


def path_pattern(pattern: bytes) -> bytes:
    """The expression for a path, to be matched as a whole: `*` and `?` stop at a slash, `**` between slashes is any
    directories, at the end all that is below."""
    parts = pattern.split(b"/")
    names = [name for at, name in enumerate(parts) if name != b"**" or parts[at - 1 : at] != [b"**"]]
    below = names[-1] == b"**"
    runs: list[list[bytes]] = [[]]
    """The names between `**`."""
    for name in names[:-1] if below else names:
        if name == b"**":
            runs.append([])
        else:
            runs[-1].append(name_pattern(name))
    first, *rest = [b"/".join(run) for run in runs]
    out = first
    for number, run in enumerate(rest):
        out += b"/" if number == 0 and first else b""
        last = number == len(rest) - 1
        if last:
            out += rb"(?:[^/]++/)*" + run
        else:
            out += rb"(?>(?:[^/]++/)*?" + run + b"/)"
    return out + (rb"/.++" if below and out else rb".++" if below else b"")


def name_pattern(pattern: bytes) -> bytes:
    """The expression for one name, up to a slash or the end. A class that does not end makes it match nothing."""
    runs: list[list[bytes]] = [[]]
    """What stands between stars."""
    at = 0
    while at < len(pattern):
        piece, at = _piece(pattern, at)
        if piece is _STAR:
            runs.append([])
        else:
            assert isinstance(piece, bytes)
            runs[-1].append(piece)
    first, *rest = [b"".join(run) for run in runs]
    if not rest:
        return first + _END
    *middle, last = rest
    tries = b"".join(rb"(?>[^/]*?" + run + b")" for run in middle if run)
    return b"(?>" + first + tries + rb"[^/]*" + last + _END + b")"


def _piece(pattern: bytes, at: int) -> tuple[object, int]:
    """The expression for what stands at `at`, and where the next begins."""
    letter = pattern[at : at + 1]
    if letter == b"*":
        return _STAR, at + 1
    if letter == b"?":
        return b"[^/]", at + 1
    if letter == b"[":
        return _class(pattern, at + 1)
    if letter == b"\\":
        # One at the very end stands for nothing that could match.
        return (re.escape(pattern[at + 1 : at + 2]), at + 2) if at + 1 < len(pattern) else (NEVER, at + 1)
    return re.escape(letter), at + 1


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """The class whose inside begins at `at`."""
    negated = pattern[at : at + 1] in (b"!", b"^")
    at += negated
    parts: list[bytes] = []
    begun = at
    while at < len(pattern) and (pattern[at : at + 1] != b"]" or at == begun):
        named = re.compile(rb"\[:([a-z]*):\]").match(pattern, at)
        if named:
            if named[1] not in _CLASSES:
                return NEVER, len(pattern)
            parts.append(_CLASSES[named[1]])
            at = named.end()
            continue
        low, at = _letter(pattern, at)
        if pattern[at : at + 1] == b"-" and pattern[at + 1 : at + 2] not in (b"]", b""):
            high, at = _letter(pattern, at + 1)
            if low <= high:
                parts.append(_coded(low) + b"-" + _coded(high))
        elif low:
            parts.append(_coded(low))
    if at >= len(pattern):
        return NEVER, at
    inside = b"".join(parts)
    if not inside:
        return (b"[^/]" if negated else NEVER), at + 1
    return (rb"(?!/)[" + (b"^" if negated else b"") + inside + b"]"), at + 1


def _letter(pattern: bytes, at: int) -> tuple[bytes, int]:
    at += pattern[at : at + 1] == b"\\"
    return pattern[at : at + 1], at + 1


def _coded(letter: bytes) -> bytes:
    return b"\\x%02x" % letter[0] if letter else b""
