"""Answers about files and changes, cut to what a chat host keeps."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_mcp.surfaces.mcp.fit import fit

LIMIT = 10_000


def size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False))


def test_what_fits_is_left_alone() -> None:
    whole = {"path": "/workspace/a", "truncated": False, "content": "x" * 5000}
    assert fit(whole, LIMIT) == whole


@pytest.mark.parametrize("content", ["x" * 50_000, "\n" * 50_000, '"' * 50_000, "é" * 50_000])
def test_a_text_is_cut_at_its_end_and_never_marked_inside(content: str) -> None:
    shown = fit({"path": "/workspace/a", "truncated": False, "content": content}, LIMIT)
    assert content.startswith(shown["content"])
    assert shown["truncated"] is True
    assert shown["content_bytes_left_out"] == len(content.encode()) - len(shown["content"].encode())
    assert LIMIT // 2 < size(shown) < LIMIT + 200


def test_a_cut_file_is_read_on_where_it_was_cut() -> None:
    whole = "".join(f"line {number} é\n" for number in range(20_000)).encode()
    read, offset = b"", 0
    while offset is not None:
        piece = whole[offset : offset + 65_536].decode(errors="ignore")
        end = offset + len(piece.encode())
        more = end if end < len(whole) else None
        told = {"offset": offset, "truncated": more is not None, "next_offset": more, "content": piece}
        shown = fit(told, LIMIT)
        read += shown["content"].encode()
        offset = shown["next_offset"]
    assert read == whole


@pytest.mark.parametrize("name", ["entries", "matches"])
def test_a_long_list_ends_early_and_says_so(name: str) -> None:
    items = [{"path": f"/workspace/{number:05}", "artifact_type": "file"} for number in range(5000)]
    shown = fit({"count": 5000, "truncated": False, name: items}, LIMIT)
    assert shown[name] == items[: shown["count"]]
    assert shown[f"{name}_left_out"] == 5000 - shown["count"]
    assert shown["truncated"] is True
    assert size(shown) < LIMIT + 200


def test_of_a_history_the_latest_is_kept() -> None:
    entries = [{"sequence": number, "stdout": "x" * 3_000} for number in range(1, 9)]
    shown = fit({"count": 8, "entries": entries}, LIMIT)
    assert [entry["sequence"] for entry in shown["entries"]] == [7, 8]
    assert shown["entries_left_out"] == 6
    assert fit({"entries": [{"sequence": 1, "stdout": "x" * 50_000}]}, LIMIT)["entries"]


def test_a_cut_page_says_where_the_next_one_begins() -> None:
    rows = [{"workspace_id": f"ws-{number:012x}", "name": "n" * 150} for number in range(300)]
    seen: list[Any] = []
    offset: int | None = 0
    while offset is not None:
        page = rows[offset : offset + 100]
        more = offset + len(page) if offset + len(page) < len(rows) else None
        whole = {"count": len(page), "offset": offset, "next_offset": more, "workspaces": page}
        shown = fit({"count": len(page), "workspaces": page}, LIMIT, whole)
        assert size(shown) < LIMIT + 200
        seen += shown["workspaces"]
        offset = shown.get("next_offset", more)
    assert seen == rows


PAYLOAD = st.fixed_dictionaries(
    {"workspace_id": st.just("ws-0123456789ab")},
    optional={
        "content": st.text(max_size=200).map(lambda text: text * 200),
        "patch": st.text(max_size=200).map(lambda text: text * 200),
        "entries": st.lists(st.fixed_dictionaries({"path": st.text(max_size=300)}), max_size=100),
        "can_run": st.lists(st.text(max_size=300), max_size=100),
    },
)


@given(PAYLOAD)
def test_whatever_comes_fits(payload: dict[str, Any]) -> None:
    assert size(fit(payload, LIMIT)) < LIMIT + LIMIT // 2 + 500
