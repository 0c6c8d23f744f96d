"""Archives as GNU tar makes them and unpacks them: we take the same, or refuse with a name."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.trees import archive_plan
from pyro_mcp.trees.archive import BEHIND, ArchiveSource
from pyro_mcp.trees.writer import TreeWriter, remove_tree

from .test_archive import member, tar

Tree = dict[str, tuple[object, ...]]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="modes as in the archive take root")


def everything(root: Path) -> Tree:
    """All that matters of a tree; names of one file have the same first name."""
    found: Tree = {}
    first: dict[int, str] = {}
    for base, directories, names in os.walk(root):
        for name in sorted([*directories, *names]):
            path = os.path.join(base, name)
            about = os.lstat(path)
            key = os.path.relpath(path, root)
            mode = stat.S_IMODE(about.st_mode)
            if stat.S_ISLNK(about.st_mode):
                found[key] = ("link", os.readlink(path))
            elif stat.S_ISDIR(about.st_mode):
                found[key] = ("directory", mode & ~0o4000, about.st_mtime_ns, attributes(path))
            elif stat.S_ISREG(about.st_mode):
                one = first.setdefault(about.st_ino, key)
                found[key] = ("file", mode & ~0o6000, about.st_mtime_ns, attributes(path), Path(path).read_bytes(), one)
    return found


def timeless(tree: Tree) -> Tree:
    """Without the times of directories: GNU tar leaves those that it had to make in between as they come."""
    return {path: entry[:2] if entry[0] == "directory" else entry for path, entry in tree.items()}


def attributes(path: str) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def by_tar(archive: Path, out: Path) -> tuple[int, Tree]:
    out.mkdir()
    words = ["tar", "-xpf", str(archive), "--xattrs", "--xattrs-include=user.*", "--no-same-owner", "-C", str(out)]
    done = subprocess.run(words, capture_output=True, check=False)
    return done.returncode, everything(out)


def by_us(archive: Path, out: Path) -> tuple[list[tuple[str, str]], Tree]:
    out.mkdir()
    source = ArchiveSource(archive)
    with TreeWriter(out, what="import", mask=0o3777, xattrs=True) as writer:
        writer.write(source)
        writer.finish()
    return [(one.path, one.reason) for one in source.skipped], everything(out)


def same(archive: Path, tmp_path: Path) -> list[tuple[str, str]]:
    """What we say of an archive of which we make what GNU tar makes."""
    status, wanted = by_tar(archive, tmp_path / "theirs")
    assert status == 0
    skipped, found = by_us(archive, tmp_path / "ours")
    assert found == wanted
    return skipped


def run(*words: object, cwd: Path) -> None:
    subprocess.run([str(word) for word in words], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "d/e").mkdir(parents=True)
    (root / "d/f").write_bytes(b"f" * 1000)
    (root / "d/e/empty").touch()
    (root / "run").write_bytes(os.urandom(700))
    (root / "run").chmod(0o750)
    os.link(root / "run", root / "twin")
    (root / "link").symlink_to("/etc/passwd")
    (root / "set").mkdir()
    (root / "set").chmod(0o2775)
    with (root / "sparse").open("wb") as file:
        for at in range(0, 40 << 16, 1 << 16):
            file.seek(at)
            file.write(b"data")
        file.truncate(5 << 20)
    for number, name in enumerate(("run", "d/f", "set", "d")):
        os.utime(root / name, ns=(0, (1_000_000_000 + number) * 10**9))
    return root


def grown(tree: Path) -> Path:
    """With what only the newer formats hold."""
    (tree / ("long/" * 40)).mkdir(parents=True)
    (tree / ("long/" * 40) / ("n" * 200)).write_bytes(b"long")
    (tree / "far").symlink_to("t" * 300)
    (tree / "\udcff\n").write_bytes(b"odd")
    return tree


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["v7", "ustar", "oldgnu", "gnu", "pax"])
def test_every_format_gives_what_tar_makes_of_it(tree: Path, tmp_path: Path, form: str, packed: bool) -> None:
    if form not in ("v7", "ustar"):
        grown(tree)
    run("tar", f"--format={form}", "-czf" if packed else "-cf", tmp_path / "a.tar", "-C", tree, ".", cwd=tmp_path)
    assert same(tmp_path / "a.tar", tmp_path) == []


@pytest.mark.parametrize(
    "how", ["--format=oldgnu", "--format=gnu", *(f"--sparse-version={v}" for v in ("0.0", "0.1", "1.0"))]
)
def test_sparse_files_keep_their_holes(tree: Path, tmp_path: Path, how: str) -> None:
    form = () if how.startswith("--format") else ("--format=pax",)
    with (tree / "crowded").open("wb") as file:
        for at in range(3000):
            file.seek(at * 8192)
            file.write(b"%d" % at)
    run("tar", *form, how, "--sparse", "-cf", tmp_path / "a.tar", "-C", grown(tree), ".", cwd=tmp_path)
    assert same(tmp_path / "a.tar", tmp_path) == []
    assert (tmp_path / "ours/sparse").stat().st_blocks * 512 < 1 << 20


def test_times_and_attributes_of_pax_arrive(tree: Path, tmp_path: Path) -> None:
    for name, time in (("run", -1_500_000_001), ("d/f", 5_000_000_000_123_456_789), ("d", 7_000_000_000_000_000_001)):
        os.utime(tree / name, ns=(0, time))
    os.setxattr(tree / "run", "user.note", b"a=b\nc\0")
    os.setxattr(tree / "d", "user.other", b"")
    run("tar", "--format=pax", "--xattrs", "-cf", tmp_path / "a.tar", "-C", tree, ".", cwd=tmp_path)
    assert same(tmp_path / "a.tar", tmp_path) == []


def test_labels_and_increments_are_taken(tree: Path, tmp_path: Path) -> None:
    run("tar", "--label=mine", "-cf", tmp_path / "a.tar", "-C", tree, ".", cwd=tmp_path)
    assert same(tmp_path / "a.tar", tmp_path) == [("mine", "the label of the archive")]
    for out in ("ours", "theirs"):
        remove_tree(tmp_path / out)
    run("tar", "--listed-incremental=snar", "-cf", tmp_path / "b.tar", "-C", tree, ".", cwd=tmp_path)
    assert same(tmp_path / "b.tar", tmp_path) == []


def test_a_name_that_comes_again_is_what_came_last(tree: Path, tmp_path: Path) -> None:
    """Its hard links keep what they were, as for `tar -x`."""
    archive = tmp_path / "a.tar"
    (tree / "link").unlink()
    (tree / "link").symlink_to("run")
    run("tar", "-cf", archive, "-C", tree, "run", "twin", "d", "link", cwd=tmp_path)
    (tree / "link").unlink()
    (tree / "link").write_bytes(b"no link any more")
    (tree / "run").unlink()
    (tree / "run").write_bytes(b"second")
    (tree / "d").chmod(0o700)
    run("tar", "-rf", archive, "-C", tree, "run", "link", "d", cwd=tmp_path)
    skipped = same(archive, tmp_path)
    again = {"run", "link", "d/f", "d/e/empty"}
    assert {path for path, reason in skipped if reason == archive_plan.AGAIN} == again
    assert len(skipped) == len(again)


@pytest.mark.parametrize(
    "members",
    [
        [member("a", b"1"), member("h", kind=tarfile.LNKTYPE, link="/a")],
        [member("a", b"1"), member("h", kind=tarfile.LNKTYPE, link="a"), member("a", b"22"), member("b", b"3")],
        [member("a", b"1"), member("h", kind=tarfile.LNKTYPE, link="a"), member("h", b"3")],
        [member("a", b"1"), member("a", kind=tarfile.SYMTYPE, link="/x"), member("b", b"2")],
        [member("d", kind=tarfile.DIRTYPE), member("d", b"file")],
        [member("f", b"x"), member("f", kind=tarfile.DIRTYPE, mode=0o711), member("f/g", b"y")],
        [member("l", kind=tarfile.SYMTYPE, link="x"), member("l", kind=tarfile.DIRTYPE)],
        [member("a", b"1"), member("a", kind=tarfile.LNKTYPE, link="a")],
        [member("c", b"contiguous", kind=tarfile.CONTTYPE), member("v7dir/", kind=tarfile.AREGTYPE), member("z", b"z")],
        [member("x", b"12345", pax_headers={"mtime": "1.5", "comment": "é", "uid": "7"}), member("y", b"")],
    ],
)  # fmt: skip
def test_what_tar_takes_is_taken(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    for info, _ in members:
        info.mode |= 0o600
    (tmp_path / "a.tar").write_bytes(tar(*members))
    same(tmp_path / "a.tar", tmp_path)


def test_a_hard_link_to_a_symbolic_link_is_taken_and_told(tmp_path: Path) -> None:
    data = tar(member("l", kind=tarfile.SYMTYPE, link="/etc/x"), member("h", kind=tarfile.LNKTYPE, link="l"))
    (tmp_path / "a.tar").write_bytes(data)
    assert same(tmp_path / "a.tar", tmp_path) == [("h", archive_plan.LINKED)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: gzip.compress(data) + b"garbage", True),
        (lambda data: gzip.compress(data) + bytes(5000), False),
        (lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]), False),
        (lambda data: gzip.compress(data) + gzip.compress(b"more"), True),
        (lambda data: data + b"more" * 300, True),
        (lambda data: data + bytes(50_000), False),
    ],
)
def test_bytes_behind_the_end_are_told(tmp_path: Path, change: Callable[[bytes], bytes], told: bool) -> None:
    (tmp_path / "a.tar").write_bytes(change(tar(member("a", b"1" * 3000))))
    skipped, found = by_us(tmp_path / "a.tar", tmp_path / "ours")
    assert found["a"][4] == b"1" * 3000
    assert skipped == ([(".", BEHIND)] if told else [])


def archives(tree: Path, tmp_path: Path) -> list[bytes]:
    made = []
    for number, words in enumerate(
        (
            ["--format=gnu"],
            ["--format=pax", "--xattrs"],
            ["--format=pax", "--sparse"],
            ["--format=oldgnu", "--sparse"],
            ["--format=ustar"],
        )
    ):
        path = tmp_path / f"{number}.tar"
        run("tar", *words, "-b1", "-cf", path, "-C", tree, "d", "run", "twin", "link", "set", "sparse", cwd=tmp_path)
        made.append(path.read_bytes())
    return made


@pytest.mark.parametrize("seed", range(6))
def test_damage_is_refused_or_gives_what_tar_makes_of_it(tree: Path, tmp_path: Path, seed: int) -> None:
    """Every archive that GNU tar takes without a word, we take as it does or refuse; none do we take otherwise."""
    chance = random.Random(seed)
    with (tree / "sparse").open("r+b") as file:
        file.truncate(300_000)
    os.setxattr(tree / "run", "user.note", b"x" * 40)
    os.utime(tree / "d/f", ns=(0, 1_700_000_000_123_456_789))
    whole = archives(tree, tmp_path)
    headers = [[at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"] for data in whole]
    taken = 0
    for _ in range(60):
        number = chance.randrange(len(whole))
        data = bytearray(whole[number])
        header = chance.choice(headers[number])
        for _ in range(chance.randint(1, 3)):
            at = header + chance.choice([chance.randrange(512), chance.randrange(1536)])
            data[min(at, len(data) - 1)] = chance.choice([0, 32, 48, 49, 55, 61, 10, 255, chance.randrange(256)])
        if chance.random() < 0.7:
            block = data[header : header + 512]
            data[header + 148 : header + 156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
        if chance.random() < 0.1:
            del data[chance.randrange(len(data)) :]
        (tmp_path / "a.tar").write_bytes(data)
        try:
            _, found = by_us(tmp_path / "a.tar", tmp_path / "ours")
        except InvalidArgument:
            found = None
        status, wanted = by_tar(tmp_path / "a.tar", tmp_path / "theirs")
        if found is not None and status == 0:
            taken += 1
            assert timeless(found) == timeless(wanted)
        for out in ("ours", "theirs"):
            remove_tree(tmp_path / out)
    assert taken


def test_limits_refuse_at_the_head(tmp_path: Path) -> None:
    """A size in a header is enough: its bytes are neither there nor waited for."""
    info = tarfile.TarInfo("giant")
    info.size = 9 << 30
    (tmp_path / "a.tar").write_bytes(tar(member("a", b"1"))[:1024] + info.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(InvalidArgument, match=r"more than 8,589,934,592 bytes.*giant"):
        next(iter(ArchiveSource(tmp_path / "a.tar")))


@pytest.mark.parametrize("value", ["9" * 20, "9" * 5000, "1e3", "-1", "+5", " 7", "0x10", "5\n6", "٣"])
@pytest.mark.parametrize("key", ["size", "mtime", "GNU.sparse.size", "GNU.sparse.realsize"])
def test_no_number_ends_as_a_bug(tmp_path: Path, key: str, value: str) -> None:
    extra = {"GNU.sparse.map": "0,1", "GNU.sparse.numblocks": "1"} if key == "GNU.sparse.size" else {}
    extra |= {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"} if key == "GNU.sparse.realsize" else {}
    raw = tar(member("first", b"1"), member("named", b"x", pax_headers={key: value, **extra}), member("last", b"2"))
    (tmp_path / "a.tar").write_bytes(raw)
    if key == "mtime" and value in ("-1", "9" * 20):
        assert set(by_us(tmp_path / "a.tar", tmp_path / "ours")[1]) == {"first", "named", "last"}
        return
    with pytest.raises(InvalidArgument, match=r"named|after 'first'"):
        list(ArchiveSource(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    "record",
    [
        b"5 a=b\n",
        b"99 a=b\n",
        b"7 a=b\n",
        b"6 a=bx",
        b"6 ab\n",
        b"a=b\n",
        b"06 a=b\0",
        b"999999999999999999999 a=b\n",
        b"3 \n",
        b"6 =bc\n",
    ],
)
def test_a_damaged_record_refuses_the_archive(tmp_path: Path, record: bytes) -> None:
    """`tarfile` ended there, or gave the next member a wrong name."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    rest = tar(member("second", b"2"))
    buffer = io.BytesIO(
        tar(member("first", b"1"))[:1024] + header.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
    )
    (tmp_path / "a.tar").write_bytes(buffer.getvalue() + rest)
    with pytest.raises(InvalidArgument, match="an extended header after 'first' is damaged"):
        list(ArchiveSource(tmp_path / "a.tar"))


def test_only_attributes_of_a_user_travel(tmp_path: Path) -> None:
    headers = {
        f"SCHILY.xattr.{name}": value
        for name, value in {
            "user.a": "1",
            "security.capability": "x",
            "trusted.t": "y",
            "security.selinux": "z",
            "user.big": "x" * 5000,
        }.items()
    }
    (tmp_path / "a.tar").write_bytes(tar(member("f", b"1", pax_headers=headers)))
    skipped, found = by_us(tmp_path / "a.tar", tmp_path / "ours")
    assert found["f"][3] == {"user.a": b"1"}
    assert [reason.split()[3] for _, reason in skipped] == ["security.capability", "trusted.t", "user.big"]
