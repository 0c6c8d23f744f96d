"""Fit: file contents, patches and lists cut to what a chat host keeps, with a note of what is cut.

A text is cut at its end and never marked inside, because a model may write it back as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_LISTS = (
    *("entries", "workspaces", "environments", "services", "shells", "snapshots", "matches", "skipped", "can_run"),
    *("masked", "network_refusals"),
)
_TEXTS = ("content", "patch")
MIN_CHARS = 1_000
"""So much of a text is shown whatever else there is."""


def fit(payload: Mapping[str, Any], limit: int, whole: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`payload` in about `limit` characters of JSON; `truncated` and `…_left_out` say what is missing. `whole` is what
    it is a view of."""
    shown, whole = dict(payload), payload if whole is None else whole
    if _size(shown) <= limit:
        return shown
    # Of what was run the latest tells most.
    latest = any("sequence" in entry for entry in shown.get("entries", ()))
    texts = any(shown.get(name) for name in _TEXTS)
    for name in _LISTS:
        if isinstance(shown.get(name), list):
            _cut_list(shown, name, limit // 2 if texts else limit - MIN_CHARS, whole, latest=latest)
    for name in _TEXTS:
        if isinstance(shown.get(name), str):
            _cut_text(shown, name, limit, whole)
    return shown


def _cut_list(shown: dict[str, Any], name: str, room: int, whole: Mapping[str, Any], *, latest: bool) -> None:
    kept: list[Any] = []
    for item in reversed(shown[name]) if latest else shown[name]:
        room -= _size(item) + 2
        if room < 0 and kept:
            break
        kept.append(item)
    if latest:
        kept.reverse()
    missing = len(shown[name]) - len(kept)
    if missing:
        shown.update({"truncated": True, f"{name}_left_out": missing})
        if "count" in shown:
            shown["count"] = len(kept)
            if "next_offset" in whole:
                shown["next_offset"] = whole["offset"] + len(kept)
    shown[name] = kept


def _cut_text(shown: dict[str, Any], name: str, limit: int, whole: Mapping[str, Any]) -> None:
    text = shown.pop(name)
    room = max(MIN_CHARS, limit - _size(shown))
    kept = text[:room]
    while _size(kept) > room:
        kept = kept[: len(kept) * 9 // 10]
    missing = len(text[len(kept) :].encode("utf-8", "replace"))
    if missing:
        shown.update({"truncated": True, f"{name}_bytes_left_out": missing})
        if "next_offset" in whole:
            # Where the reader goes on is where it was cut here, not where the file was cut before.
            shown["next_offset"] = whole["offset"] + len(kept.encode())
    shown[name] = kept


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False))
