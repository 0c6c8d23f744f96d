"""Mcp fit: file contents, patches and lists cut to what a chat host keeps, with a note of what is cut.

A text is cut at its end and never marked inside, because a model may write it back as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_LISTS = ("entries", "matches", "skipped", "can_run")
_TEXTS = ("content", "patch")
MIN_CHARS = 1_000
"""So much of a text is shown whatever else there is."""


def fit(payload: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """`payload` in about `limit` characters of JSON; `truncated` and `…_left_out` say what is missing."""
    shown = dict(payload)
    entries = shown.get("entries")
    if isinstance(entries, list):
        # The whole patch says the texts once more, and a model pays for each word.
        shown["entries"] = [{**entry, "text_patch": None} if "text_patch" in entry else entry for entry in entries]
    if _size(shown) <= limit or (isinstance(entries, list) and any("stdout" in entry for entry in entries)):
        return shown
    texts = any(shown.get(name) for name in _TEXTS)
    for name in _LISTS:
        if isinstance(shown.get(name), list):
            _cut_list(shown, name, limit // 2 if texts else limit - MIN_CHARS)
    for name in _TEXTS:
        if isinstance(shown.get(name), str):
            _cut_text(shown, name, limit)
    return shown


def _cut_list(shown: dict[str, Any], name: str, room: int) -> None:
    kept: list[Any] = []
    for item in shown[name]:
        room -= _size(item) + 2
        if room < 0:
            break
        kept.append(item)
    missing = len(shown[name]) - len(kept)
    if missing:
        shown.update({"truncated": True, f"{name}_left_out": missing})
        if "count" in shown:
            shown["count"] = len(kept)
    shown[name] = kept


def _cut_text(shown: dict[str, Any], name: str, limit: int) -> None:
    text = shown.pop(name)
    room = max(MIN_CHARS, limit - _size(shown))
    kept = text[:room]
    while _size(kept) > room:
        kept = kept[: len(kept) * 9 // 10]
    missing = len(text[len(kept) :].encode("utf-8", "replace"))
    if missing:
        shown.update({"truncated": True, f"{name}_bytes_left_out": missing})
        if "next_offset" in shown:
            # Where the reader goes on is where it was cut here, not where the file was cut before.
            shown["next_offset"] = shown["offset"] + len(kept.encode())
    shown[name] = kept


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False))
