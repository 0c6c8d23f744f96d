"""Salvage: which words of an entry, be it damaged, were options of `mcp serve`.

What a repair left out might be what kept the server narrow. So only what stands in the place of `mcp serve` itself is
passed over; every other word is an option, for `serve` to understand or to refuse.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pyro_mcp.hosts.contract import SERVE

_SUBCOMMAND = ("pyro", "pyro_mcp", *SERVE)


def option_words(entry: Any) -> list[str]:
    """The words in `entry` after those that start pyro's server, in their order."""
    words = _after_launcher(_words(entry))
    for at in range(len(words) - 1):
        if tuple(words[at : at + 2]) == SERVE:
            return _after_subcommand(words[:at]) + words[at + 2 :]
    return _after_subcommand(words)


def _words(entry: Any) -> list[str]:
    """All words of an entry of any form."""
    if isinstance(entry, dict):
        return [*_words(entry.get("command")), *_words(entry.get("args"))]
    if isinstance(entry, list | tuple):
        return [word for one in entry for word in _words(one)]
    if not isinstance(entry, str):
        return [] if entry is None else [str(entry)]
    # Several words in one: a line as a shell takes it.
    return _split(entry) if " -" in entry or f" {SERVE[0]}" in entry else [entry]


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return [line]


def _after_launcher(words: Sequence[str]) -> list[str]:
    """Without what starts pyro: a path to it, or another program with words of its own up to pyro's name."""
    ends = [at for at, word in enumerate(words) if "pyro" in Path(word).name or tuple(words[at + 1 : at + 3]) == SERVE]
    return list(words[ends[0] + 1 :]) if ends else list(words[1:])


def _after_subcommand(words: Sequence[str]) -> list[str]:
    rest = list(words)
    while rest and not rest[0].startswith("-") and get_close_matches(rest[0], _SUBCOMMAND, 1):
        del rest[0]
    return rest
