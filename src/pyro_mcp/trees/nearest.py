"""What stands in a file instead of a text that somebody looked for: told so that the next try is right.

The work is bounded by the file's first lines, whatever either text holds.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable

MAX_TEXT = 4 * 1024 * 1024
MAX_LINE = 1000
MAX_LINES = 50
"""How much of a file, of a line, and of the text that was looked for is compared."""
CANDIDATES = 50
SIMILAR = 0.5
SHOWN = 200

_NUMBERED = re.compile(r"^\s*\d+(→|\t)")
_WORD = re.compile(r"\w+")
_LIKE = {
    **dict.fromkeys("‘’‚‛′`´", "'"),
    **dict.fromkeys("“”„‟″«»", '"'),
    **dict.fromkeys("‐‑‒–—―−", "-"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
    **dict(zip("асеіјорѕухАВСЕНІЈКМОРЅТХΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "aceijopsyxABCEHIJKMOPSTXABEZHIKMNOPTYXo", strict=True)),
}
_PLAIN = str.maketrans(_LIKE)


def difference(text: str, wanted: str) -> tuple[str, str]:
    """How what is in `text` differs from `wanted`, which is not in it: a cause, and a hint for the next try."""
    lines = [line[:MAX_LINE] for line in text[:MAX_TEXT].split("\n")]
    asked = [line[:MAX_LINE] for line in wanted.split("\n")][:MAX_LINES]
    if all(_NUMBERED.match(line) for line in asked if line.strip()) and wanted.strip():
        bare = [_NUMBERED.sub("", line) for line in asked]
        if _place(lines, bare, _exactly) is not None:
            return "it begins with line numbers", "Leave out the numbers and what parts them from the text."
    for what, fold in _FOLDS:
        at = _place(lines, asked, fold)
        if at is not None:
            mine, theirs = _first_difference(lines[at:], _trimmed(asked))
            if what != "line ends":
                mine, theirs = mine.removesuffix("\r"), theirs.removesuffix("\r")
            return f"line {at + 1} differs from it only in {what}", _compared(mine, theirs)
    near = _similar(lines, asked)
    if near is None:
        return "nothing in it is like that", "Read the file, and give its lines as they stand there."
    return f"line {near + 1} comes nearest", f"That line is {_shown(lines[near])}. Read the file from there."


def _exactly(line: str) -> str:
    return line


def _spaceless(line: str) -> str:
    return "".join(line.split())


def _plain(line: str) -> str:
    return _spaceless(unicodedata.normalize("NFKC", line.translate(_PLAIN)).translate(_PLAIN))


_FOLDS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("line ends", lambda line: line.removesuffix("\r")),
    ("white space", _spaceless),
    ("characters that look alike", _plain),
    ("upper and lower case", lambda line: _plain(line).casefold()),
)


def _trimmed(lines: list[str]) -> list[str]:
    """`lines` without blank ones at the ends."""
    told = [at for at, line in enumerate(lines) if line.strip()]
    return lines[told[0] : told[-1] + 1] if told else []


def _place(lines: list[str], asked: list[str], fold: Callable[[str], str]) -> int | None:
    """Where all of `asked` stands in `lines` when both are folded. Its ends may be parts of lines."""
    wanted = [fold(line) for line in _trimmed(asked)]
    if not any(wanted):
        return None
    folded = [fold(line) for line in lines]
    for at in range(len(folded) - len(wanted) + 1):
        if len(wanted) == 1:
            if wanted[0] in folded[at]:
                return at
        elif (
            folded[at].endswith(wanted[0])
            and folded[at + 1 : at + len(wanted) - 1] == wanted[1:-1]
            and folded[at + len(wanted) - 1].startswith(wanted[-1])
        ):
            return at
    return None


def _first_difference(lines: list[str], asked: list[str]) -> tuple[str, str]:
    pairs = list(zip(lines, asked, strict=False))
    return next(((mine, theirs) for mine, theirs in pairs if mine != theirs), pairs[0])


def _compared(mine: str, theirs: str) -> str:
    """Both lines, and of the first characters that look alike what they are."""
    told = f"The file has {_shown(mine)}, the text {_shown(theirs)}."
    for one, other in zip(_spaceless(mine), _spaceless(theirs), strict=False):
        if one != other and not (one.isascii() and other.isascii()):
            return f"{told} {one!r} is U+{ord(one):04X}, {other!r} is U+{ord(other):04X}."
    return told


def _similar(lines: list[str], asked: list[str]) -> int | None:
    """The line that is most like the longest of `asked`; only those that share most words are looked at closely."""
    wanted = max(asked, key=lambda line: len(line.strip()), default="").strip()
    words = set(_WORD.findall(wanted))
    if not words:
        return None
    shared = [(len(words.intersection(_WORD.findall(line))), -at) for at, line in enumerate(lines)]
    matcher = difflib.SequenceMatcher(None, autojunk=False)
    matcher.set_seq2(wanted[:SHOWN])
    best: tuple[float, int] | None = None
    for count, at in sorted(shared, reverse=True)[:CANDIDATES]:
        matcher.set_seq1(lines[-at].strip()[:SHOWN])
        ratio = matcher.ratio() if count or matcher.quick_ratio() > SIMILAR else 0.0
        if ratio >= SIMILAR and (best is None or ratio > best[0]):
            best = ratio, -at
    return best[1] if best else None


def _shown(line: str) -> str:
    """A line as a message shows it: short, with every odd character spelled out."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line[:SHOWN])
    return f'"{text}"' + ("..." if len(line) > SHOWN else "")
