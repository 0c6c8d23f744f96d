"""Names of files as patches write them, and which of them a patch may touch."""

from __future__ import annotations

import re

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.protocol.entries import EntryError, safe_path

ROOT = "/workspace"
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_SHORT = {code: letter for letter, code in _ESCAPES.items()}
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2}|.)", re.DOTALL)
_INVISIBLE = dict.fromkeys([0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFEFF, *range(0x202A, 0x202F)])
RULE = "Name files relative to /workspace, as in `--- a/src/app.py`"


def unquote(name: bytes) -> bytes:
    """The name that git wrote as the C string `name`, its quotes included. Raises `InvalidArgument`."""

    def decode(match: re.Match[bytes]) -> bytes:
        code = match[1].decode("latin-1")
        if len(code) == 3:
            return bytes([int(code, 8)])
        if code not in _ESCAPES:
            raise InvalidArgument(f"cannot read the patch: unknown escape in the name {show(name)}", hint=RULE)
        return bytes([_ESCAPES[code]])

    if len(name) < 2 or not name.endswith(b'"'):
        raise InvalidArgument(f"cannot read the patch: the quoted name {show(name)} has no end", hint=RULE)
    return _ESCAPE.sub(decode, name[1:-1])


def quote(name: str) -> str:
    """`name` as git reads it in a header: as it is, or as a C string where a byte would confuse a reader."""
    pieces = []
    for character in name:
        code = ord(character)
        if character in '"\\' or code < 0x20 or code == 0x7F:
            pieces.append("\\" + _SHORT.get(code, f"{code:03o}"))
        elif character.isprintable():
            pieces.append(character)
        else:
            pieces += [f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape")]
    text = "".join(pieces)
    return f'"{text}"' if text != name else name


def patchable(name: bytes) -> str:
    """The path below /workspace that a patch means by `name`. Raises `InvalidArgument` for any it may not touch."""
    text = name.decode("utf-8", "surrogateescape")
    if text.startswith(f"{ROOT}/"):
        text = text.removeprefix(f"{ROOT}/").lstrip("/")
    while text.startswith("./"):
        text = text[2:]
    if text.startswith("/"):
        raise InvalidArgument(f"cannot apply the patch: {show(name)} is outside /workspace", hint=RULE)
    try:
        path = safe_path(text)
    except EntryError:
        raise InvalidArgument(f"cannot apply the patch: {show(name)} is no plain path", hint=RULE) from None
    if any(is_git_directory(part) for part in path.split("/")):
        hint = "Change the repository with git itself, inside the workspace"
        raise InvalidArgument(f"cannot apply the patch: {show(name)} is inside git's own directory", hint=hint)
    return path


def is_git_directory(part: str) -> bool:
    """Whether some file system would take the name `part` for `.git`."""
    plain = part.translate(_INVISIBLE).casefold().split(":")[0].rstrip(". ")
    return plain in (".git", "git~1")


def show(name: bytes | str) -> str:
    """`name` for a message: on one line, printable, bounded."""
    text = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    return quote(text[:200] + ("…" if len(text) > 200 else ""))
