"""Names: what a host name may look like, and which ones a policy lets through.

There is one form: lower case, ASCII, no dot at its end. A name that has no such form, or more than one reading, is
refused. The text that is matched against the policy is the very text that is resolved. Pure: no I/O.
"""

from __future__ import annotations

import encodings.idna
import re
import unicodedata
from collections.abc import Iterable

NAME_MAX, LABEL_MAX, GIVEN_MAX = 253, 63, 1024
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DEVIATIONS = frozenset("ßς\u200c\u200d")
"""What the two standards of international names map to different names."""


def host_name(text: str) -> str:
    """The one form of the host name `text`. Raises `ValueError` with the rule it breaks."""
    if not 0 < len(text) <= GIVEN_MAX:
        raise ValueError("it is empty" if not text else "it is too long")
    bare = text[:-1] if text.endswith(".") else text
    labels = [_label(label) for label in bare.split(".")]
    name = ".".join(labels)
    if len(name) > NAME_MAX:
        raise ValueError(f"it has more than {NAME_MAX} characters")
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError("it ends in a number, so it is an address written as a name")
    return name


def pattern(text: str) -> str:
    """The one form of an entry of `--allow-host`: a name, or `*.` and a name. Raises `ValueError` with the rule."""
    if text == "*":
        raise ValueError("it would allow every name; leave the host names out for that")
    star = text.startswith("*.")
    return ("*." if star else "") + host_name(text[2:] if star else text)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of `patterns` lets `name` through, both in their one form. `*.example.com` stands for every name
    below example.com, at any depth, and not for example.com itself."""
    return any(name.endswith(one[1:]) if one.startswith("*.") else name == one for one in patterns)


def _label(text: str) -> str:
    label = text.lower() if text.isascii() else _to_ascii(text)
    if not label:
        raise ValueError("it has an empty part between its dots")
    if not _LABEL.fullmatch(label):
        rule = f"letters, digits, - and _, at most {LABEL_MAX}, with no - at either end"
        raise ValueError(f"the part {text[:64]!r} is not made of {rule}")
    return label


def _to_ascii(text: str) -> str:
    """An international label as DNS carries it, if every reader agrees what that is."""
    shown = repr(text[:64])
    lowered = unicodedata.normalize("NFC", text.lower())
    try:
        plain = len(lowered) <= len(text) and encodings.idna.nameprep(text) == lowered and not lowered.isascii()
        label = encodings.idna.ToASCII(lowered).decode("ascii")
        back = encodings.idna.ToUnicode(label)
    except ValueError as error:
        raise ValueError(f"the part {shown} is no international name: {error}") from None
    letters = all(character.isalnum() or character in "-_" or unicodedata.combining(character) for character in lowered)
    if not plain or not letters or back != lowered or not _DEVIATIONS.isdisjoint(lowered):
        raise ValueError(f"the part {shown} has more than one reading; write it in its xn-- form")
    return label
