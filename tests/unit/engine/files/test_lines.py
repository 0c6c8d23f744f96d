"""Reading by lines on the real agent: as they stand, and numbered within the room of one answer."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from agentlab import Lab, Scripted

from pyro_mcp.engine.files.lines import LINE_BYTES, VIEW_CHARS, read, view_files
from pyro_mcp.engine.secrets.redact import Masks
from pyro_mcp.errors import InvalidArgument, NotFound, ProtocolError
from pyro_mcp.model.file import FileContent, FileViews
from pyro_mcp.operations.call import Call
from pyro_mcp.operations.encode import encode
from pyro_mcp.protocol.channel import Stream


def some(lab: Lab, path: str = "f", *, first: int | None = 1, count: int | None = None, **more: Any) -> FileContent:
    return read(lab.call, lab.place, path, **{"max_bytes": 65_536, "offset": 0, "first": first, "count": count, **more})


def view(lab: Lab, *paths: str, offset: int = 1, limit: int = 2000) -> FileViews:
    """One path stands alone, several are a list."""
    one, several = (paths[0], None) if len(paths) == 1 else (None, list(paths))
    return view_files(lab.call, lab.place, path=one, paths=several, offset=offset, limit=limit)


def test_lines_come_as_they_stand(lab: Lab) -> None:
    text = "one\r\n\ttwo é\nthree"
    lab.put("f", text)
    assert some(lab).content == text
    part = some(lab, first=2, count=1)
    assert (part.content, part.first_line, part.next_line, part.line_count) == ("\ttwo é\n", 2, 3, 3)
    assert (part.offset, part.next_offset, part.truncated) == (5, 13, True)
    assert some(lab, first=None, offset=part.next_offset).content == "three"
    assert part.sha256 == sha256(text.encode()).hexdigest()
    assert some(lab, first=None, count=1).content == some(lab, first=0, count=1).content == "one\r\n"
    cut = some(lab, first=2, max_bytes=6)
    assert (cut.content, cut.next_offset, cut.next_line) == ("\ttwo ", 10, None)
    with pytest.raises(InvalidArgument, match="exclude each other"):
        some(lab, first=2, offset=3)
    with pytest.raises(InvalidArgument, match="from line 4: it has 3 lines"):
        some(lab, first=4)


def test_a_view_has_numbers_and_says_where_to_read_on(lab: Lab) -> None:
    lab.put("f", "".join(f"line {number}\n" for number in range(1, 12)))
    whole = view(lab, "f")
    assert whole.content.split("\n")[:2] == [" 1→line 1", " 2→line 2"]
    assert whole.content.endswith("\n11→line 11")
    assert (whole.path, whole.line_count, whole.truncated, whole.next_offset) == ("/workspace/f", 11, False, None)
    part = view(lab, "f", offset=3, limit=2)
    assert (part.content, part.offset, part.next_offset, part.truncated) == ("3→line 3\n4→line 4", 3, 5, True)
    lab.put("empty")
    assert (view(lab, "empty").content, view(lab, "empty").line_count) == ("", 0)
    lab.put("windows", "a\r\nb\r\nc")
    assert (view(lab, "windows").content, view(lab, "windows").line_ends) == ("1→a\n2→b\n3→c", "crlf")
    lab.put("mixed", "a\r\nb\n")
    assert (view(lab, "mixed").content, view(lab, "mixed").line_ends) == ("1→a\r\n2→b", None)


@pytest.mark.parametrize("line", ["x" * 30, '"\\' * 20, "é" * 3000, "\x01" * 5000, "", "x" * 10_000])
def test_pages_are_bounded_and_lose_no_line(lab: Lab, line: str) -> None:
    lab.put("f", f"{line}\n" * 400)
    seen, at = 0, 1
    while True:
        page = view(lab, "f", offset=at)
        assert len(json.dumps(encode(page), ensure_ascii=False)) < VIEW_CHARS + 600
        shown = page.content.split("\n")
        assert [int(one.partition("→")[0]) for one in shown] == list(range(at, at + len(shown)))
        if len(line.encode()) <= LINE_BYTES and "\x01" not in line:
            assert {one.partition("→")[2] for one in shown} == {line}
        else:
            assert all("of this line left out" in one or "cut here" in one for one in shown)
        assert page.cut_lines == sum(one.endswith("shows on ...]") for one in shown)
        seen += len(shown)
        if page.next_offset is None:
            break
        at = page.next_offset
    assert seen == 400


@pytest.mark.parametrize("line", ["0123456789" * 300, "é" * 1500, "\x01" * 5000])
def test_a_cut_line_says_how_to_see_its_rest(lab: Lab, tmp_path: Path, line: str) -> None:
    lab.put("f", f"short\n{line}\n")
    page = view(lab, "f", offset=2)
    assert (page.cut_lines, page.truncated) == (1, False)
    found = re.fullmatch(r"2→(.*) \[\.\.\. .*`(sed -n 2p FILE \| cut -b \d+-)` shows on \.\.\.\]", page.content, re.S)
    assert found, page.content[-200:]
    (tmp_path / "FILE").write_text(f"short\n{line}\n")
    rest = subprocess.run(["sh", "-c", found[2]], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert found[1] + rest == f"{line}\n"


def test_what_is_no_text_is_told(lab: Lab) -> None:
    for content in (b"a\0b", b"\xff\xfe\n", b"ok\n\xe9\n"):
        lab.put("f", content)
        seen = view(lab, "f")
        assert (seen.binary, seen.content, seen.truncated, seen.size_bytes) == (True, "", False, len(content))
        assert some(lab).binary


def test_several_files_share_the_room_and_one_problem_stops_none(lab: Lab) -> None:
    lab.put("small", "one\n")
    lab.put("large", "a line of some length\n" * 2000)
    files = view(lab, "large", "nope", "small", "../out", ".").files
    assert files is not None
    assert [one.error.code if one.error else None for one in files] == [
        None,
        "not_found",
        None,
        "invalid_argument",
        "invalid_argument",
    ]
    assert files[2].content == "1→one"
    assert files[0].truncated
    assert len(json.dumps(encode(view(lab, *["large"] * 16)), ensure_ascii=False)) < VIEW_CHARS + 1000
    small = view(lab, "small", "small", "large").files
    assert small is not None
    assert len(small[2].content) > VIEW_CHARS // 2
    with pytest.raises(NotFound):
        view(lab, "nope")
    with pytest.raises(InvalidArgument, match="no file is named"):
        view_files(lab.call, lab.place, path=None, paths=None, offset=1, limit=1)


def test_a_secret_of_several_lines_is_hidden_before_numbers_part_it(lab: Lab) -> None:
    lab.put("f", "a\nk1\nk2\nb\n")
    place = replace(lab.place, masks=Masks.of([b"k1\nk2"]))
    seen = view_files(lab.call, place, path="f", paths=None, offset=1, limit=9)
    assert seen.content == "1→a\n2→[secret]\n3→\n4→b"


def test_a_lying_agent_is_refused(scripted: Scripted) -> None:
    def handler(stream: Stream) -> None:
        stream.send(b"x" * 100_000, 1)
        stream.result({})

    with pytest.raises(ProtocolError):
        view_files(Call(None), scripted(handler), path="f", paths=None, offset=1, limit=9)
