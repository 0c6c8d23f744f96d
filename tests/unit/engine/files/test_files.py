"""The `file` verbs on the real agent, in a directory of this host."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from agentlab import Lab

from pyro_mcp.engine.files import edit as editing
from pyro_mcp.engine.files.edit import edit_file
from pyro_mcp.engine.files.files import ABSENT, list_files, read_file, search_files, write_file
from pyro_mcp.errors import Conflict, InvalidArgument, NotFound
from pyro_mcp.model.file import FileEdit, FileEdited, FileList, FileSearch
from pyro_mcp.trees.edit import Edit, Edited, edit


def listed(lab: Lab, path: str = "/workspace", *, recursive: bool = False, pattern: str | None = None) -> FileList:
    return list_files(lab.call, lab.place, path, recursive=recursive, pattern=pattern, limit=1000)


def paths(found: FileList) -> list[str]:
    return [entry.path.removeprefix("/workspace/") for entry in found.entries]


def test_a_listing_tells_types_sizes_and_targets(lab: Lab) -> None:
    lab.put("src/app.py", "print()\n")
    lab.put("readme", "hello")
    (lab.root / "link").symlink_to("readme")
    os.mkfifo(lab.root / "pipe")
    found = listed(lab)
    told = {entry.path: (entry.artifact_type, entry.size_bytes, entry.link_target) for entry in found.entries}
    assert told == {
        "/workspace/link": ("symlink", 0, "readme"),
        "/workspace/pipe": ("other", 0, None),
        "/workspace/readme": ("file", 5, None),
        "/workspace/src": ("directory", 0, None),
    }
    assert (found.count, found.truncated, found.recursive) == (4, False, False)
    assert (found.workspace_id, found.execution_mode, found.isolation) == ("ws-0123456789ab", "host_compat", "none")


def test_a_pattern_looks_at_every_level(lab: Lab) -> None:
    for name in ("a.py", "src/b.py", "src/deep/c.py", "src/d.txt"):
        lab.put(name)
    assert paths(listed(lab, recursive=True)) == ["a.py", "src", "src/b.py", "src/d.txt", "src/deep", "src/deep/c.py"]
    assert paths(listed(lab, pattern="*.py")) == ["a.py", "src/b.py", "src/deep/c.py"]
    assert paths(listed(lab, pattern="src/*.py")) == ["src/b.py"]
    assert paths(listed(lab, "src", pattern="**/*.py")) == ["src/b.py", "src/deep/c.py"]


def test_a_long_listing_says_that_it_was_cut(lab: Lab) -> None:
    for number in range(5):
        lab.put(f"f{number}")
    found = list_files(lab.call, lab.place, ".", recursive=False, pattern=None, limit=3)
    assert (found.count, found.truncated) == (3, True)


@pytest.mark.parametrize("deep", [False, True])
def test_a_listing_is_read_page_by_page(lab: Lab, deep: bool) -> None:
    for number in range(7):
        lab.put(f"d{number % 2}/f{number}" if deep else f"f{number}")
    whole, seen, offset = listed(lab, recursive=deep), [], 0
    while True:
        page = list_files(lab.call, lab.place, ".", recursive=deep, pattern=None, limit=3, offset=offset)
        assert (page.offset, page.count, page.truncated) == (offset, len(page.entries), page.next_offset is not None)
        seen += page.entries
        if page.next_offset is None:
            break
        assert page.next_offset == offset + 3
        offset = page.next_offset
    assert seen == whole.entries
    beyond = list_files(lab.call, lab.place, ".", recursive=deep, pattern=None, limit=3, offset=99)
    assert (beyond.entries, beyond.next_offset, beyond.truncated) == ([], None, False)


def test_a_search_is_read_page_by_page(lab: Lab) -> None:
    for number in range(4):
        lab.put(f"f{number}", "a hit\nnone\nb hit\n")

    def search(limit: int, offset: int = 0) -> FileSearch:
        return search_files(
            lab.call, lab.place, "hit", path=".", glob=None, ignore_case=False, limit=limit, offset=offset
        )

    pages, offset = [], 0
    while True:
        pages.append(search(3, offset))
        assert pages[-1].offset == offset
        if pages[-1].next_offset is None:
            break
        offset = pages[-1].next_offset
    assert [page.count for page in pages] == [3, 3, 2]
    assert [one for page in pages for one in page.matches] == search(100).matches
    assert not search(3, 99).truncated


def test_names_that_are_not_utf8_survive(lab: Lab) -> None:
    with open(os.fsencode(lab.root) + b"/\xff\n", "wb") as file:
        file.write(b"odd")
    name = listed(lab).entries[0].path
    assert os.fsencode(name) == b"/workspace/\xff\n"
    assert read_file(lab.call, lab.place, name, max_bytes=10).content == "odd"


def test_what_is_written_is_read(lab: Lab) -> None:
    text = "Grüße\n" * 100
    wrote = write_file(lab.call, lab.place, "new/dir/file.txt", text=text, expected_sha256=None)
    assert wrote.path == "/workspace/new/dir/file.txt"
    assert (wrote.created, wrote.size_bytes, wrote.bytes_written) == (True, 800, 800)
    assert wrote.sha256 == sha256(text.encode()).hexdigest()
    read = read_file(lab.call, lab.place, "/workspace/new/dir/file.txt", max_bytes=65536)
    assert (read.content, read.truncated, read.binary, read.sha256) == (text, False, False, wrote.sha256)
    assert lab.notes == [("file_write", {"path": "/workspace/new/dir/file.txt", "bytes_written": 800, "created": True})]


def test_large_text_survives(lab: Lab) -> None:
    text = "0123456789abcdef" * (1 << 16)
    write_file(lab.call, lab.place, "big", text=text, expected_sha256=None)
    assert read_file(lab.call, lab.place, "big", max_bytes=4 << 20).content == text


def test_a_cut_never_halves_a_character(lab: Lab) -> None:
    lab.put("text", "aé€😀")
    contents = [read_file(lab.call, lab.place, "text", max_bytes=size) for size in range(11)]
    assert [one.content for one in contents] == ["", "a", "a", "aé", "aé", "aé", "aé€", "aé€", "aé€", "aé€", "aé€😀"]
    assert [one.truncated for one in contents] == [True] * 10 + [False]
    assert not any(one.binary for one in contents)
    assert {one.size_bytes for one in contents} == {10}


@pytest.mark.parametrize("content", [b"\0", b"ab\0cd", b"\xff\xfe", b"\xe9 in latin-1"])
def test_binary_is_told_apart(lab: Lab, content: bytes) -> None:
    lab.put("data", content)
    read = read_file(lab.call, lab.place, "data", max_bytes=100)
    assert (read.binary, read.content, read.size_bytes) == (True, "", len(content))
    assert read.sha256 == sha256(content).hexdigest()


def test_two_writers_cannot_overwrite_each_other_unseen(lab: Lab) -> None:
    first = write_file(lab.call, lab.place, "f", text="one", expected_sha256=ABSENT)
    second = write_file(lab.call, lab.place, "f", text="two", expected_sha256=first.sha256)
    with pytest.raises(Conflict, match="not the expected"):
        write_file(lab.call, lab.place, "f", text="three", expected_sha256=first.sha256)
    with pytest.raises(Conflict, match="exists already"):
        write_file(lab.call, lab.place, "f", text="three", expected_sha256=ABSENT)
    with pytest.raises(Conflict, match="no longer exists"):
        write_file(lab.call, lab.place, "gone", text="three", expected_sha256=second.sha256)
    assert (lab.root / "f").read_text() == "two"


def edited(
    lab: Lab,
    path: str,
    old: str | None = None,
    new: str | None = None,
    *,
    edits: list[FileEdit] | None = None,
    expected: str | None = None,
) -> FileEdited:
    return edit_file(
        lab.call,
        lab.place,
        path,
        old_string=old,
        new_string=new,
        replace_all=False,
        edits=edits,
        expected_sha256=expected,
    )


def test_an_edit_changes_what_it_names_and_says_where(lab: Lab) -> None:
    target = lab.put("run.sh", "#!/bin/sh\necho one\necho two\n", 0o755)
    (lab.root / "link").symlink_to("run.sh")
    done = edited(lab, "link", "echo two", "echo 2")
    assert target.read_text() == "#!/bin/sh\necho one\necho 2\n"
    assert target.stat().st_mode & 0o777 == 0o755
    assert (lab.root / "link").is_symlink()
    assert (done.path, done.replacements, done.first_changed_line) == ("/workspace/run.sh", 1, 3)
    assert (done.created, done.size_bytes) == (False, len(target.read_bytes()))
    assert done.sha256 == sha256(target.read_bytes()).hexdigest()
    assert lab.notes[0][1]["path"] == "/workspace/run.sh"
    assert edited(lab, "new/f", "", "x").created
    assert (lab.root / "new/f").read_text() == "x"


def test_of_several_edits_all_are_made_or_none(lab: Lab) -> None:
    target = lab.put("f", "one two\n")
    many: list[FileEdit] = [{"old_string": "one", "new_string": "1"}, {"old_string": "two", "new_string": "2"}]
    wrong: FileEdit = {"old_string": "three", "new_string": "3"}
    with pytest.raises(InvalidArgument, match="edit 3 of 3"):
        edited(lab, "f", edits=[*many, wrong])
    assert target.read_text() == "one two\n"
    assert edited(lab, "f", edits=many).replacements == 2
    assert target.read_text() == "1 2\n"
    with pytest.raises(InvalidArgument, match="one edit or a list"):
        edited(lab, "f", "1", "2", edits=many)
    with pytest.raises(InvalidArgument, match="one edit or a list"):
        edited(lab, "f", "1")


def test_an_edit_of_what_is_not_as_expected_is_refused(lab: Lab) -> None:
    target = lab.put("f", "one\n")
    digest = sha256(b"one\n").hexdigest()
    with pytest.raises(NotFound, match="no such file"):
        edited(lab, "nope", "a", "b")
    with pytest.raises(Conflict, match="no longer exists"):
        edited(lab, "nope", "a", "b", expected=digest)
    with pytest.raises(Conflict, match="exists already"):
        edited(lab, "f", "one", "two", expected=ABSENT)
    assert edited(lab, "f", "one", "two", expected=digest).replacements == 1
    with pytest.raises(Conflict, match="not the expected"):
        edited(lab, "f", "two", "three", expected=digest)
    with pytest.raises(InvalidArgument, match="directory"):
        edited(lab, ".", "a", "b")
    assert target.read_text() == "two\n"


def test_an_edit_is_tried_again_on_what_somebody_else_wrote(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    target = lab.put("f", "one\ntwo\n")
    others = iter([b"zero\none\ntwo\n", b"0\none\ntwo\n"])

    def racing(path: str, content: bytes | None, edits: list[Edit]) -> Edited:
        """The edit, but somebody changes the file between its reading and its writing."""
        done = edit(path, content, edits)
        if other := next(others, None):
            target.write_bytes(other)
        return done

    monkeypatch.setattr(editing, "edit", racing)
    assert edited(lab, "f", "two", "2").first_changed_line == 3
    assert target.read_text() == "0\none\n2\n"
    others = iter([b"again\none\n"])
    with pytest.raises(Conflict, match="not the expected"):
        edited(lab, "f", "one", "1", expected=sha256(target.read_bytes()).hexdigest())
    assert target.read_text() == "again\none\n"
    others = iter([b"one\n%d" % number for number in range(100)])
    with pytest.raises(Conflict, match="not the expected"):
        edited(lab, "f", "one", "1")


def test_edits_at_once_lose_nothing(lab: Lab) -> None:
    target = lab.put("f", "".join(f"<{number}>\n" for number in range(4)))
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(edited, lab, "f", f"<{number}>", f"[{number}]") for number in range(4)]
        assert [one.result().replacements for one in done] == [1] * 4
    assert target.read_text() == "".join(f"[{number}]\n" for number in range(4))


def test_a_file_that_is_too_large_to_edit_is_told(lab: Lab) -> None:
    with open(lab.put("big"), "wb") as file:
        file.truncate(33 * 1024 * 1024)
    with pytest.raises(InvalidArgument, match="at most 33554432"):
        edited(lab, "big", "a", "b")


def test_a_replaced_file_keeps_its_mode(lab: Lab) -> None:
    target = lab.put("run.sh", "old", 0o755)
    write_file(lab.call, lab.place, "run.sh", text="new", expected_sha256=None)
    assert target.stat().st_mode & 0o777 == 0o755
    assert target.read_text() == "new"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "/workspace/../etc/passwd", "out/passwd", "up/x"])
def test_no_path_leads_out(lab: Lab, path: str) -> None:
    (lab.root / "out").symlink_to("/etc")
    (lab.root / "up").symlink_to("..")
    before = lab.snapshot()
    with pytest.raises(InvalidArgument):
        read_file(lab.call, lab.place, path, max_bytes=100)
    with pytest.raises(InvalidArgument):
        write_file(lab.call, lab.place, path, text="x", expected_sha256=None)
    with pytest.raises(InvalidArgument):
        listed(lab, path)
    assert lab.snapshot() == before


def test_what_is_no_file_is_named(lab: Lab) -> None:
    lab.put("d/f")
    with pytest.raises(NotFound, match="/workspace/nope"):
        read_file(lab.call, lab.place, "nope", max_bytes=1)
    with pytest.raises(InvalidArgument, match="directory"):
        read_file(lab.call, lab.place, "d", max_bytes=1)
    with pytest.raises(InvalidArgument, match="directory"):
        write_file(lab.call, lab.place, "d", text="x", expected_sha256=None)
    with pytest.raises(InvalidArgument, match="not valid Unicode"):
        write_file(lab.call, lab.place, "x", text="\udc80", expected_sha256=None)


def test_search_finds_lines(lab: Lab) -> None:
    lab.put("a.py", "import os\n\ndef main():\n    pass\n")
    lab.put("src/b.py", "def other(): pass\r\n")
    lab.put("c.txt", "def text")
    lab.put("data", b"\0def")
    lab.put(".git/config", "def git")

    def search(pattern: str, **options: object) -> list[tuple[str, int, str]]:
        asked = {"path": ".", "glob": None, "ignore_case": False, "limit": 100, **options}
        found = search_files(lab.call, lab.place, pattern, **asked)  # type: ignore[arg-type]
        assert found.count == len(found.matches)
        return [(one.path.removeprefix("/workspace/"), one.line, one.text) for one in found.matches]

    assert search(r"def \w+\(", glob="*.py") == [("a.py", 3, "def main():"), ("src/b.py", 1, "def other(): pass")]
    assert search("DEF T", ignore_case=True) == [("c.txt", 1, "def text")]
    assert search("^def", path="src") == [("src/b.py", 1, "def other(): pass")]
    assert search("nothing at all") == []
    counts = search_files(lab.call, lab.place, "def", path=".", glob=None, ignore_case=False, limit=100)
    assert (counts.files_searched, counts.files_skipped) == (3, 1)
    whole = search_files(lab.call, lab.place, "def", path=".", glob=None, ignore_case=False, limit=1)
    assert (whole.count, whole.truncated) == (1, True)
    with pytest.raises(InvalidArgument, match="malformed"):
        search("(")


@pytest.mark.parametrize("size", [4, 5, 7, 4096])
def test_a_long_file_is_read_part_by_part(lab: Lab, size: int) -> None:
    text = "aé€😀\n" * 700
    lab.put("long", text)
    parts, offset = [], 0
    while True:
        part = read_file(lab.call, lab.place, "long", max_bytes=size, offset=offset)
        assert (part.offset, part.size_bytes, part.binary) == (offset, len(text.encode()), False)
        assert part.sha256 == sha256(text.encode()).hexdigest()
        parts.append(part.content)
        if part.next_offset is None:
            assert not part.truncated
            break
        assert part.truncated
        assert part.next_offset > offset
        offset = part.next_offset
        assert offset == len("".join(parts).encode())
    assert "".join(parts) == text


def test_an_offset_within_a_character_moves_to_the_next(lab: Lab) -> None:
    lab.put("text", "a😀b")
    found = [read_file(lab.call, lab.place, "text", max_bytes=9, offset=at) for at in range(8)]
    assert [one.content for one in found] == ["a😀b", "😀b", "b", "b", "b", "b", "", ""]
    assert [one.offset for one in found] == [0, 1, 5, 5, 5, 5, 6, 7]
    assert not any(one.binary or one.truncated for one in found)
    lab.put("odd", b"text\x80\x80\x80\x80")
    assert read_file(lab.call, lab.place, "odd", max_bytes=9, offset=4).binary


def test_the_end_of_a_giant_is_read_without_the_rest(lab: Lab) -> None:
    with lab.put("giant").open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"the end")
    part = read_file(lab.call, lab.place, "giant", max_bytes=100, offset=1 << 40)
    assert (part.content, part.truncated, part.size_bytes, part.sha256) == ("the end", False, (1 << 40) + 7, None)
