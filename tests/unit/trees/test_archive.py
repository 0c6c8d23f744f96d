"""One archive per known trick, and our verdict on it (checks 6 and 10)."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_mcp.errors import InvalidArgument, NotFound
from pyro_mcp.protocol.entries import Entry
from pyro_mcp.trees.archive import ArchiveSource
from pyro_mcp.trees.archive_plan import AGAIN
from pyro_mcp.trees.limits import Limits
from pyro_mcp.trees.tar import ENDLESS

from .conftest import contents

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", **fields: object) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), link
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read(tmp_path: Path, data: bytes, limits: Limits | None = None) -> ArchiveSource:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    return ArchiveSource(path, limits=limits)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_an_honest_archive_arrives(tmp_path: Path, form: int, packed: bool) -> None:
    long = "deep/" * 40 + "name"
    data = tar(
        member("./", kind=tarfile.DIRTYPE),
        member("./bin", kind=tarfile.DIRTYPE, mode=0o750),
        member("bin/run", b"#!", mode=0o755, mtime=1234),
        member("twin", kind=tarfile.LNKTYPE, link="./bin/run"),
        member("link", kind=tarfile.SYMTYPE, link="/etc/passwd"),
        member(long, b"x" * 700_000),
        member("\udcff\n-rf", b"y"),
        form=form,
    )
    source = read(tmp_path, gzip.compress(data) if packed else data)
    items = list(source)
    found = contents(items)
    assert found["bin"] == ("directory", 0o750, b"")
    assert found["bin/run"] == ("file", 0o755, b"#!")
    assert found["twin"] == ("hardlink", 0, "bin/run")
    assert found["link"] == ("symlink", 0o777, "/etc/passwd")
    assert found[long][2] == b"x" * 700_000
    assert found["deep/deep"][0] == "directory"
    assert found["\udcff\n-rf"][2] == b"y"
    assert source.skipped == []


REFUSED: dict[str, tuple[bytes, str]] = {
    "absolute": (tar(member("/etc/passwd", b"x")), "/etc/passwd"),
    "climbing": (tar(member("a/../../x", b"x")), "../../x"),
    "dots inside": (tar(member("a/../b", b"x")), "a/../b"),
    "NUL in a PAX path": (tar(member("x", b"x", pax_headers={"path": "a\0b"})), "NUL"),
    "PAX path override": (tar(member("fine", b"x", pax_headers={"path": "../evil"})), "evil"),
    "PAX link override": (
        tar(member("l", kind=tarfile.LNKTYPE, link="x", pax_headers={"linkpath": "/etc/shadow"})),
        "shadow",
    ),
    "through a link": (tar(member("l", kind=tarfile.SYMTYPE, link="/tmp"), member("l/x", b"x")), "symlink"),
    "through a chain": (
        tar(
            member("a", kind=tarfile.SYMTYPE, link="."),
            member("b", kind=tarfile.SYMTYPE, link="a/.."),
            member("b/x", b"x"),
        ),
        "symlink",
    ),
    "through a file": (tar(member("f", b"x"), member("f/x", b"x")), "which is a file"),
    "file over a directory": (tar(member("d/f", b"1"), member("d", b"2")), "'d' is a directory that holds"),
    "hard link out": (tar(member("h", kind=tarfile.LNKTYPE, link="/etc/shadow")), "shadow"),
    "hard link to nothing": (tar(member("h", kind=tarfile.LNKTYPE, link="later"), member("later", b"x")), "later"),
    "hard link to a directory": (
        tar(member("d", kind=tarfile.DIRTYPE), member("h", kind=tarfile.LNKTYPE, link="d")),
        "hard link",
    ),
    "negative size in PAX": (tar(member("x", b"", pax_headers={"size": "-1024"})), "negative"),
    "unknown type": (tar(member("x", kind=b"Z")), "unknown type"),
    "cut in a member": (tar(member("x", b"x" * 5000))[:2048], "a.tar"),
    "cut in the padding": (tar(member("x", b"x" * 512), member("y", b"y"))[:1700], "a.tar"),
    "cut in a header": (tar(member("x", b"x" * 512), member("y"))[:1100], "cut off"),
    "cut amid a member": (tar(member("a"), member("n" * 150), form=tarfile.GNU_FORMAT)[:1536], "amid a member"),
    "damaged header": (tar(member("x"), member("y"))[:512] + b"\x01" * 512, "damaged"),
    "empty": (b"", "cut off"),
    "no archive": (b"hello" * 500, "no tar archive"),
    "bzip2": (b"BZh91AY", "bzip2"),
    "cut gzip": (gzip.compress(tar(member("x", bytes(range(256)) * 900)))[:-20], "gzip stream is cut off"),
    "too long a name": (tar(member("n" * 300)), "has a name of 300 bytes; at most 255 fit"),
    "no name": (tar(member("a"), member("b", pax_headers={"path": "\0"})), "member 2, '\\x00', cannot be taken"),
    "a link to no name": (tar(member("a"), member("l", kind=tarfile.SYMTYPE)), "'l' is a symbolic link to nothing"),
    "a hard link that climbs": (
        tar(member("a"), member("h", kind=tarfile.LNKTYPE, link="../a")),
        "'h' is a hard link to '../a'",
    ),
    "no user": (tar(member("u", pax_headers={"uid": "xx"})), "the uid of 'u' is no number"),
    "no group": (tar(member("u", pax_headers={"gid": "-1"})), "the gid of 'u' is negative"),
    "no time": (tar(member("u", pax_headers={"atime": "soon"})), "the atime of 'u' is no number"),
    "a file without a name": (tar(member("", b"x")), "no name"),
    "a file in place of the root": (tar(member("./.", b"x")), "no name"),
    "a link in place of the root": (tar(member(".", kind=tarfile.SYMTYPE, link="/tmp")), "no name"),
    "empty parts before a name": (tar(member(".//../x", b"x")), "not a plain"),
    "too deep": (tar(member("d/" * 300 + "x")), "levels"),
}  # fmt: skip


@pytest.mark.parametrize("trick", REFUSED)
def test_a_trick_is_refused_as_a_whole(tmp_path: Path, trick: str) -> None:
    data, word = REFUSED[trick]
    with pytest.raises(InvalidArgument) as caught:
        list(read(tmp_path, data))
    assert word in caught.value.message


def test_a_negative_base_256_size_is_refused(tmp_path: Path) -> None:
    data = bytearray(tar(member("x"), form=tarfile.GNU_FORMAT))
    data[124:136] = b"\xff" * 12
    checksum = 256 + sum(data[:148]) + sum(data[156:512])
    data[148:156] = b"%06o\0 " % checksum
    with pytest.raises(InvalidArgument, match="negative"):
        list(read(tmp_path, bytes(data)))


def test_devices_and_pipes_are_left_out_and_setuid_goes(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        tar(
            member("dev", kind=tarfile.CHRTYPE, devmajor=1, devminor=1),
            member("disk", kind=tarfile.BLKTYPE),
            member("pipe", kind=tarfile.FIFOTYPE),
            member("su", b"x", mode=0o6755),
        ),
    )
    assert contents(source) == {"su": ("file", 0o755, b"x")}
    assert [skipped.path for skipped in source.skipped] == ["dev", "disk", "pipe", "su"]


def test_what_a_tar_tells_of_a_file_that_does_not_travel_is_named(tmp_path: Path) -> None:
    acl = {"SCHILY.acl.access": "user::rw-,user:7:r--,group::r--,mask::r--,other::r--"}
    source = read(
        tmp_path,
        tar(
            member("./", kind=tarfile.DIRTYPE, mode=0o2775),
            member("acl", b"x", pax_headers=acl),
            member("default", kind=tarfile.DIRTYPE, pax_headers={"SCHILY.acl.default": "user::rwx"}),
            member("link", kind=tarfile.SYMTYPE, link="acl", pax_headers={"SCHILY.xattr.trusted.x": "1"}),
            member("other", b"x", pax_headers={"LIBARCHIVE.xattr.user.x": "M!Q"}),
            member("alone", b"x", pax_headers={"LIBARCHIVE.xattr.user.a%3Db": "YQBi", "LIBARCHIVE.xattr.user.x": "MQ"}),
            member("both", b"x", pax_headers={"LIBARCHIVE.xattr.user.x": "Mg", "SCHILY.xattr.user.x": "1"}),
        ),
    )
    found = {item.path: item.xattrs for item in source if isinstance(item, Entry)}
    assert found["both"] == (("user.x", b"1"),)
    assert found["alone"] == (("user.a=b", b"a\0b"), ("user.x", b"1"))
    assert [skipped.path for skipped in source.skipped] == [".", "acl", "default", "link", "other"]
    assert source.skipped[-1].reason.endswith("left out: its value is no base64")


def test_a_hard_link_to_what_is_left_out_is_left_out_too(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        tar(
            member("p", kind=tarfile.FIFOTYPE),
            member("l", kind=tarfile.LNKTYPE, link="p"),
            member("again", kind=tarfile.LNKTYPE, link="l"),
            member("c", b"file"),
            member("c", kind=tarfile.CHRTYPE),
            member("q", kind=tarfile.FIFOTYPE),
            member("q", b"file"),
            member("r", kind=tarfile.LNKTYPE, link="q"),
        ),
    )
    assert {path: found[0] for path, found in contents(source).items()} == {"q": "file", "r": "hardlink"}
    assert {(one.path, one.reason) for one in source.skipped} == {
        ("p", "a named pipe"),
        ("l", "a hard link to 'p', which was left out"),
        ("again", "a hard link to 'l', which was left out"),
        ("c", AGAIN),
        ("c", "a device"),
        ("q", "a named pipe"),
    }


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_without_its_end_is_taken_where_a_member_ends(tmp_path: Path, packed: bool) -> None:
    whole = tar(member("x", b"x" * 512), member("y", b"y"))[:2048]
    source = read(tmp_path, gzip.compress(whole) if packed else whole)
    assert {path: found[2] for path, found in contents(source).items()} == {"x": b"x" * 512, "y": b"y"}
    assert [(one.path, one.reason) for one in source.skipped] == [(".", ENDLESS)]


def test_parts_of_a_name_that_lead_nowhere_are_left_out(tmp_path: Path) -> None:
    source = read(tmp_path, tar(member("a//b/./c", b"x"), member("l", kind=tarfile.LNKTYPE, link="./a///b/c")))
    assert contents(source)["l"] == ("hardlink", 0, "a/b/c")


def test_bombs_stop_at_the_stated_limits(tmp_path: Path) -> None:
    zeros = gzip.compress(tar(member("zeros", bytes(20_000_000))))
    with pytest.raises(InvalidArgument, match="unfolds to more than 250 times"):
        list(read(tmp_path, zeros, Limits(free_bytes=1_000_000)))
    with pytest.raises(InvalidArgument, match="more than 1,000,000 bytes"):
        list(read(tmp_path, zeros, Limits(bytes=1_000_000)))
    with pytest.raises(InvalidArgument, match="more than 100 files"):
        list(read(tmp_path, tar(*(member(str(number)) for number in range(200))), Limits(entries=100)))
    huge = bytearray(tar(member("x", pax_headers={"comment": "y" * 2_000_000})))
    with pytest.raises(InvalidArgument, match="extended header"):
        list(read(tmp_path, bytes(huge)))


def test_a_gnu_sparse_giant_is_counted_by_its_size(tmp_path: Path) -> None:
    headers = {
        "GNU.sparse.size": str(1 << 45),
        "GNU.sparse.numblocks": "1",
        "GNU.sparse.map": "0,1",
        "GNU.sparse.name": "s",
    }
    data = tar(member("s", b"x", pax_headers=headers))
    with pytest.raises(InvalidArgument, match="8,589,934,592"):
        list(read(tmp_path, data))
    small = {**headers, "GNU.sparse.size": "100000", "GNU.sparse.map": "5000,3"}
    items = list(read(tmp_path, tar(member("s", b"abc", pax_headers=small))))
    assert isinstance(items[0], Entry)
    assert items[0].stored == 3
    assert contents(items)["s"][2] == bytes(5000) + b"abc" + bytes(94997)
    for bad in ("5000,-3", "-1,3", "99999,3", "7,3,5,3"):
        with pytest.raises(InvalidArgument):
            list(read(tmp_path, tar(member("s", b"abcabc", pax_headers={**small, "GNU.sparse.map": bad}))))


@pytest.mark.parametrize("packed", [False, True])
def test_a_directory_named_after_its_content_keeps_its_mode(tmp_path: Path, packed: bool) -> None:
    data = tar(
        member("a/b/file", b"x"),
        member("a/b", kind=tarfile.DIRTYPE, mode=0o700, mtime=77),
        member("./a/", kind=tarfile.DIRTYPE, mode=0o555, mtime=78),
        member("c/file", b"y", mtime=5),
    )
    found = {
        item.path: item for item in read(tmp_path, gzip.compress(data) if packed else data) if isinstance(item, Entry)
    }
    assert [(found[name].mode, found[name].mtime_ns // 10**9) for name in ("a", "a/b", "c")] == [
        (0o555, 78),
        (0o700, 77),
        (0o755, 5),
    ]


def test_what_comes_after_cannot_hide_behind_its_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        list(read(tmp_path, tar(member("a/b", b"x"), member("../evil", kind=tarfile.DIRTYPE))))


def test_an_absent_archive_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        list(ArchiveSource(tmp_path / "none.tar"))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_anywhere_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(
        tar(member("a/b", b"x" * 600), member("l", kind=tarfile.SYMTYPE, link="a"), member("n" * 150, b"y"))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    path.write_bytes(raw)
    refused = False
    try:
        list(ArchiveSource(path))
    except InvalidArgument:
        refused = True
    assert refused in (True, False)
