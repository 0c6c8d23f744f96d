"""/workspace as a file system: what a program may do on ext4 it may do here, and diff, snapshots and the tools for
stopped disks follow. A tmpfs in the same guest is the oracle."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.machines.qemu.command import DISK_BYTES
from pyro_mcp.machines.qemu.driver import QemuMachine
from pyro_mcp.model.agent_verbs import refused_in_words
from pyro_mcp.protocol.channel import RemoteError

from .workspacelab import changed, sh, talk

pytestmark = pytest.mark.guest

DUMP = r"""
use strict; use Fcntl ':mode'; my %first;
sub show { my ($dir) = @_;
  opendir(my $d, $dir eq '' ? '.' : $dir) or die "$dir: $!"; my @names = sort grep { !/^\.\.?$/ } readdir $d;
  for my $name (@names) { my $path = $dir eq '' ? $name : "$dir/$name"; my @s = lstat $path or die "$path: $!";
    my $kind = S_ISDIR($s[2]) ? 'd' : S_ISLNK($s[2]) ? 'l' : S_ISREG($s[2]) ? 'f' : '?';
    my $line = sprintf('%s %s %04o %d %d', $path, $kind, S_IMODE($s[2]), $s[4], $s[9]);
    if ($kind eq 'f') { open(my $f, '<', $path) or die; local $/; my $text = <$f>;
      $first{$s[1]} //= $path; $line .= " $s[3] $first{$s[1]} " . unpack('%32C*', $text) . ' ' . length $text }
    $line .= ' ' . readlink $path if $kind eq 'l';
    print "$line\n"; show($path) if $kind eq 'd' } }
show('');
"""
PLAY = r"""
use strict; use Errno; $| = 1;
while (<STDIN>) { chomp; my ($op, $one, $two) = split /\t/; my $ok;
  $! = 0;
  if ($op eq 'rename') { $ok = rename $one, $two } elsif ($op eq 'link') { $ok = link $one, $two }
  elsif ($op eq 'unlink') { $ok = unlink $one } elsif ($op eq 'rmdir') { $ok = rmdir $one }
  elsif ($op eq 'mkdir') { $ok = mkdir $one } elsif ($op eq 'chmod') { $ok = chmod 0640, $one }
  elsif ($op eq 'symlink') { $ok = symlink $two, $one } elsif ($op eq 'truncate') { $ok = truncate $one, 3 }
  elsif ($op eq 'utime') { $ok = utime 1000000000, 1000000000, $one }
  elsif ($op eq 'write') { $ok = open(my $f, '>>', $one); print $f $two if $ok }
  print "$op $one ", $ok ? 'ok' : $!+0, "\n" }
"""
NAMES = [
    "a",
    "b",
    "dir",
    "dir/sub",
    "dir/sub/b",
    "dir/h2",
    "h1",
    "other",
    "other/deep",
    "other/deep/h3",
    "new",
    "new/x",
]
NAMES += ["dir/a", "moved", "moved/sub", "dir2", "other/deep/er", "link", "dir/sub/deeper/leaf", "dir/sub/deeper"]
OPS = (
    ["rename"] * 6
    + ["link"] * 3
    + ["write"] * 3
    + ["unlink", "rmdir", "mkdir", "chmod", "symlink", "truncate", "utime"]
)


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "dir/sub/deeper").mkdir(parents=True)
    (tree / "other/deep/er").mkdir(parents=True)
    for name in ("a", "b", "dir/a", "dir/sub/b", "dir/sub/deeper/leaf", "other/deep/er/c"):
        (tree / name).write_text(f"{name}\n")
    (tree / "h1").write_text("hard\n")
    for name in ("dir/h2", "other/deep/h3"):
        os.link(tree / "h1", tree / name)
    (tree / "link").symlink_to("dir/a")
    deep = tree.joinpath("deep", *["n" * 200] * 10, "end")
    deep.mkdir(parents=True)
    (deep / "leaf").write_text("leaf")
    image = tmp_path / "seed.image"
    subprocess.run(["mkfs.erofs", "--all-root", str(image), str(tree)], check=True, capture_output=True)
    os.truncate(image, DISK_BYTES)
    return image


@pytest.fixture
def guest(launch_workspace: Any) -> QemuMachine:
    machine: QemuMachine = launch_workspace(load=False)
    return machine


def dump(machine: QemuMachine, where: str = "/workspace") -> dict[str, str]:
    stream = machine.channel.open("exec", {"argv": ["perl", "-e", DUMP], "cwd": where})
    lines = _output(stream).splitlines()
    return {line.split(" ", 1)[0]: line for line in lines}


def play(machine: QemuMachine, where: str, script: str) -> list[str]:
    stream = machine.channel.open("exec", {"argv": ["perl", "-e", PLAY], "cwd": where, "stdin": True})
    stream.send(script.encode())
    stream.end()
    return _output(stream).splitlines()


def _output(stream: Any) -> str:
    output = bytearray()
    for message in stream.messages():
        output += getattr(message, "data", b"")
        value = getattr(message, "value", {})
        assert value.get("exit_code", 0) == 0, output
    return output.decode()


def restored(launch_workspace: Any, machine: QemuMachine) -> QemuMachine:
    said, saved, _ = talk(machine.channel, "overlay_save", {})
    assert (said["skipped_count"], said["changed_count"]) == (0, 0)
    machine.terminate()
    other: QemuMachine = launch_workspace(load=True)
    talk(other.channel, "overlay_load", {}, saved)
    return other


def expected(before: dict[str, str], after: dict[str, str]) -> dict[str, str]:
    """What a diff must tell of two dumps."""
    told = {}
    for path in sorted(before.keys() | after.keys()):
        old, new = (_compared(tree, path) for tree in (before, after))
        if old == new or (old and new and old[0] == new[0] == "d"):
            continue
        told[path] = "added" if old is None else "deleted" if new is None else "modified"
        if old and new and old[0] != new[0]:
            told[path] = "type_changed"
        if (kind := new or old) and kind[0] == "d" and told[path] != "type_changed":
            tree = after if new else before
            if any(name.startswith(path + "/") for name in tree):
                del told[path]
    return told


def _compared(tree: dict[str, str], path: str) -> tuple[str, ...] | None:
    """Type and what of it a diff tells: mode and content, but not times, owners or links."""
    if path not in tree:
        return None
    kind, mode, _, _, *rest = tree[path][len(path) + 1 :].split(" ")
    return (kind, *rest) if kind == "l" else (kind, mode, *rest[2:])


def test_the_root_of_a_guest_is_such_a_file_system_too(guest: QemuMachine) -> None:
    renamed = play(guest, "/", "rename\t/usr/share/perl5\t/usr/share/perl9\nrename\t/etc/apt\t/opt/apt\n")
    assert [line.rsplit(" ", 1)[1] for line in renamed] == ["ok", "ok"]
    assert sh(guest, "ls -d /usr/share/perl5 2>&1 || true").endswith("No such file or directory")
    linked = sh(guest, "find /usr -xdev -type f -links +1 | head -1")
    assert linked
    count, number = sh(guest, f"stat -c '%h %i' {linked}").split()
    assert sh(guest, f"chmod u+w {linked}; echo >> {linked}; stat -c '%h %i' {linked}").split() == [count, number]
    assert len(sh(guest, f"find /usr -xdev -inum {number}").splitlines()) == int(count)


def test_a_directory_may_have_had_a_long_path(launch_workspace: Any, guest: QemuMachine) -> None:
    deep = "deep/" + "/".join(["n" * 200] * 10)
    assert sh(guest, f"mkdir top; mv -T {deep}/end top/end && cat top/end/leaf") == "leaf"
    # As rename(2): mv would copy what cannot be renamed, and the copy would have other numbers.
    assert play(guest, "/workspace", f"rename\ttop/end\t{deep}/back\n") == ["rename top/end ok"]
    after = dump(guest)
    again = restored(launch_workspace, guest)
    assert dump(again) == after


def test_a_file_keeps_its_numbers_when_it_is_written_to(launch_workspace: Any, guest: QemuMachine) -> None:
    """Or `git status`, rsync and `find -xdev` would take it for another."""
    look = "find . -xdev ! -type d -exec stat -c '%n %d %i' {} + | sort"
    before = sh(guest, look)
    assert len({line.split()[1] for line in before.splitlines()}) == 1
    sh(guest, "find . -type f -exec sh -c 'echo >> $1' - {} \\;")
    assert sh(guest, look) == before
    sh(guest, "mkdir fresh; mv dir fresh/dir")
    again = restored(launch_workspace, guest)
    for where in (".", "fresh", "fresh/dir"):
        assert sh(again, f"ls -if {where} | sed 's/^ *//' | grep -v ' [.]*$' | sort") == sh(
            again, f"cd {where}; stat -c '%i %n' $(ls -A) | sort"
        )


def scripts() -> Iterator[str]:
    for number in range(6):
        chance = random.Random(number)
        yield "".join(
            f"{chance.choice(OPS)}\t{chance.choice(NAMES)}\t{chance.choice(NAMES)}\n" for _ in range(120 + 40 * number)
        )


def test_a_seeded_directory_is_renamed_and_everything_follows(launch_workspace: Any, guest: QemuMachine) -> None:
    begun = dump(guest)
    said = play(
        guest, "/workspace", "rename\tdir\tmoved\nrename\tmoved/sub\tsub2\nrename\tsub2\tother/sub3\nmkdir\tdir\n"
    )
    assert [line.rsplit(" ", 1)[1] for line in said] == ["ok"] * 4
    assert changed(guest) == {
        **dict.fromkeys(("moved/a", "moved/h2", "other/sub3/b", "other/sub3/deeper/leaf"), "added"),
        **dict.fromkeys(("dir/a", "dir/h2", "dir/sub/b", "dir/sub/deeper/leaf"), "deleted"),
    }
    after = dump(guest)
    again = restored(launch_workspace, guest)
    assert dump(again) == after
    assert changed(again) == expected(begun, after)
    play(again, "/workspace", "rmdir\tdir\nrename\tother/sub3\tmoved/sub\nrename\tmoved\tdir\n")
    assert changed(again) == {}


def test_hard_links_of_a_seed_stay_linked(launch_workspace: Any, guest: QemuMachine) -> None:
    numbers = sh(guest, "stat -c '%h %i %d' h1 dir/h2 other/deep/h3")
    assert len(set(numbers.splitlines())) == 1
    assert numbers.startswith("3 ")
    sh(guest, "echo more >> dir/h2")
    assert sh(guest, "cat h1 other/deep/h3; stat -c '%h %i %d' h1 dir/h2 other/deep/h3") == (
        "hard\nmore\n" * 2 + numbers
    )
    assert changed(guest) == dict.fromkeys(("h1", "dir/h2", "other/deep/h3"), "modified")
    sh(guest, "mv dir moved; rm h1")
    after = dump(guest)
    again = restored(launch_workspace, guest)
    assert dump(again) == after
    sh(again, "echo once >> other/deep/h3")
    assert sh(again, "cat moved/h2; stat -c %h moved/h2") == "hard\nmore\nonce\n2"


def test_what_a_snapshot_cannot_hold_hides_the_seed_all_the_same(launch_workspace: Any, guest: QemuMachine) -> None:
    sh(guest, "rm a; mkfifo a; mv dir moved; mkfifo dir; rm -r other; mknod other b 7 0")
    sh(guest, "mkdir fresh; mkfifo fresh/pipe")
    lost = ["a", "dir", "fresh/pipe", "other"]
    after = {path: line for path, line in dump(guest).items() if path not in lost}
    before = changed(guest)
    said, saved, _ = talk(guest.channel, "overlay_save", {})
    assert [one["path"] for one in said["skipped"]] == lost
    guest.terminate()
    again = launch_workspace(load=True)
    talk(again.channel, "overlay_load", {}, saved)
    assert dump(again) == after
    assert changed(again) == before
    sh(again, "rmdir fresh")


def test_a_snapshot_keeps_whose_the_workspace_is(launch_workspace: Any, guest: QemuMachine) -> None:
    sh(guest, "chown 1000:100 .; chmod 2770 .; touch -d @1000000000 .")
    set_it = r"my ($path, $name, $value) = ('.', 'user.mine', 'x'); syscall(188, $path, $name, $value, 1, 0) and die $!"
    get_it = r"my ($path, $name, $value) = ('.', 'user.mine', '-'); syscall(191, $path, $name, $value, 1); print $value"
    sh(guest, 'perl -e "$SET" && test "$(perl -e "$GET")" = x', env={"SET": set_it, "GET": get_it})
    again = restored(launch_workspace, guest)
    assert sh(again, "stat -c '%u %g %a %Y' .; perl -e \"$GET\"", env={"GET": get_it}) == "1000 100 2770 1000000000\nx"
    assert changed(again) == {}


def test_a_diff_names_what_a_rename_took_too_deep(guest: QemuMachine) -> None:
    above = "/".join(["m" * 200] * 12)
    sh(guest, f"mkdir -p {above}; mv deep {above}/in")
    said, _, events = talk(guest.channel, "changes", {})
    assert [one["reason"] for one in said["skipped"]] == ["too deep"]
    assert {event["path"].split("/")[0] for event in events} == {"deep", "m" * 200}


def test_whatever_is_done_is_as_on_another_file_system(launch_workspace: Any, guest: QemuMachine) -> None:
    machine = guest
    begun = dump(machine)
    for script in scripts():
        sh(machine, "mkdir /dev/shm/twin && cp -a . /dev/shm/twin")
        said = play(machine, "/workspace", script)
        assert said == play(machine, "/dev/shm/twin", script), script
        assert sum(line.startswith("rename") and line.endswith(" ok") for line in said) > 5
        after = dump(machine)
        assert _timeless(after) == _timeless(dump(machine, "/dev/shm/twin")), script
        assert changed(machine) == expected(begun, after), script
        machine = restored(launch_workspace, machine)
        assert dump(machine) == after, script
        assert changed(machine) == expected(begun, after), script


def _timeless(tree: dict[str, str]) -> dict[str, list[str]]:
    return {path: [word for at, word in enumerate(line.split(" ")) if at != 4] for path, line in tree.items()}


@pytest.mark.parametrize(
    "how",
    [
        "umount -l /workspace",
        "mount -t tmpfs none /workspace",
        "mkdir /elsewhere; mount --move /workspace /elsewhere",
        "mount --bind /workspace/dir /workspace",
        "umount -l /workspace; rmdir /workspace; ln -s /tmp /workspace",
        "umount -l /workspace; rmdir /workspace",
    ],
)
def test_verbs_and_commands_see_the_same_tree_or_a_typed_error(guest: QemuMachine, how: str) -> None:
    assert sh(guest, "umount /workspace 2>&1 || true").endswith("target is busy.")
    sh(guest, how)
    asked: dict[str, dict[str, Any]] = {
        "exec": {"argv": ["pwd"]},
        "file_list": {"path": "."},
        "file_read": {"path": "a"},
        "file_search": {"pattern": "a", "path": "."},
        "file_write": {"path": "a", "size": 0},
        "tree_apply": {"operations": [{"op": "delete", "path": "a"}]},
        "tree_pack": {"path": "."},
        "tree_unpack": {"dest": "."},
        "changes": {},
        "overlay_save": {},
        "shell_open": {"shell_id": "s1", "cols": 80, "rows": 24, "cwd": "/workspace/dir"},
        "service_start": {"name": "web", "run": "r1", "argv": ["true"]},
    }
    for verb, params in asked.items():
        with pytest.raises(RemoteError) as caught:
            talk(guest.channel, verb, params)
        assert caught.value.payload["code"] == "conflict", verb
        assert "unmounted, moved or covered" in caught.value.payload["message"], verb
        assert "reset" in caught.value.payload["hint"]
    assert sh(guest, "pwd", cwd="/") == "/"


def test_none_of_its_verbs_shows_in_a_refusal(guest: QemuMachine) -> None:
    verbs = guest.channel.peer["verbs"]
    assert {"tree_pack", "shell_open", "exec", "changes"} <= set(verbs)
    for verb in verbs:
        told = refused_in_words(f"cannot {verb}: it is so")
        assert told.endswith(": it is so")
        assert "_" not in told, verb


def test_a_cover_that_is_taken_away_was_none(guest: QemuMachine) -> None:
    sh(guest, "mount -t tmpfs none /workspace")
    sh(guest, "umount /workspace", cwd="/")
    assert sh(guest, "cat a") == "a"
    assert talk(guest.channel, "file_read", {"path": "a"})[1] == b"a\n"
    sh(guest, "mount --bind /workspace /workspace")
    assert talk(guest.channel, "file_read", {"path": "a"})[1] == b"a\n"


def test_what_is_mounted_in_the_tree_is_named(guest: QemuMachine) -> None:
    sh(guest, "mkdir 'dir/a b'; mount -t tmpfs none 'dir/a b'; echo hidden > 'dir/a b/file'")
    assert talk(guest.channel, "file_read", {"path": "dir/a b/file"})[1] == b"hidden\n"
    for verb, params in (("changes", {}), ("overlay_save", {}), ("tree_pack", {"path": "dir"})):
        with pytest.raises(RemoteError, match="something is mounted on /workspace/dir/a b") as caught:
            talk(guest.channel, verb, params)
        assert caught.value.payload["code"] == "conflict"
    with pytest.raises(RemoteError) as caught:
        talk(guest.channel, "file_write", {"path": "dir/a b/new", "size": 1}, b"x")
    assert "mounted there" in caught.value.payload["hint"]
    assert talk(guest.channel, "tree_pack", {"path": "other"})[0]["entry_count"] == 4
    sh(guest, "umount 'dir/a b'; mount -o remount,ro /workspace")
    with pytest.raises(RemoteError, match="Read-only") as caught:
        talk(guest.channel, "file_write", {"path": "new", "size": 1}, b"x")
    assert (caught.value.payload["code"], "remount" in caught.value.payload["hint"]) == ("permission", True)
    assert changed(guest) == {"dir/a b": "added"}


R = "/run/pyro/runtime"
PYTHON = [f"{R}/lib/ld.so", "--library-path", f"{R}/lib", "--argv0", f"{R}/bin/python3", f"{R}/bin/python3", "-I", "-S"]
TRY = r"""
import ctypes, errno, fcntl, mmap, os, stat, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    args = [ctypes.c_long(one) if isinstance(one, int) else one for one in args]
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), name)
def attempt(name, work):
    try:
        value = work()
        print(name, "ok" if value is None else value)
    except OSError as error:
        print(name, errno.errorcode[error.errno])
def swap():
    open("swap", "wb").write(bytes(1 << 20)); os.chmod("swap", 0o600)
    subprocess.run(["mkswap", "swap"], check=True, capture_output=True)
    call("swapon", b"swap", 0)
def nested():
    for name in "lumw":
        os.mkdir(name)
    call("mount", b"o", b"m", b"overlay", 0, b"lowerdir=l,upperdir=u,workdir=w")
def shared():
    before = os.open("dir/sub/b", os.O_RDONLY)
    seen = mmap.mmap(before, 0, mmap.MAP_SHARED, mmap.PROT_READ)
    os.pwrite(os.open("dir/sub/b", os.O_RDWR), b"NEW", 0)
    again = mmap.mmap(os.open("dir/sub/b", os.O_RDONLY), 0, mmap.MAP_SHARED, mmap.PROT_READ)
    return (os.read(before, 3) + seen[:3] + again[:3]).decode()
def locked(lock):
    one = os.open("other/deep/er/c", os.O_RDONLY)
    fcntl.flock(one, fcntl.LOCK_SH)
    two = os.open("other/deep/er/c", os.O_RDWR)
    lock(two)
def inherits():
    os.mkdir("group"); os.chown("group", 0, 1234); os.chmod("group", 0o2775); os.mkdir("group/below")
    status = os.stat("group/below")
    return f"{status.st_gid} {stat.S_IMODE(status.st_mode) & 0o2000:o}"
def renames(flag, one=b"a", two=b"b"):
    call("renameat2", -100, one, -100, two, flag)
handle = ctypes.create_string_buffer(b"\x80\0\0\0" + bytes(200))
attempt("O_TMPFILE", lambda: os.close(os.open(".", os.O_TMPFILE | os.O_RDWR)))
attempt("name_to_handle_at", lambda: call("name_to_handle_at", -100, b"a", handle, ctypes.byref(ctypes.c_int()), 0))
attempt("swapon", swap)
attempt("overlay", nested)
attempt("RENAME_WHITEOUT", lambda: renames(4))
attempt("mknod 0, 0", lambda: os.mknod("white", stat.S_IFCHR, 0))
attempt("mknod", lambda: os.mknod("null", stat.S_IFCHR, os.makedev(1, 3)))
attempt("mmap", shared)
attempt("flock", lambda: locked(lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)))
attempt("RENAME_EXCHANGE", lambda: renames(2))
attempt("RENAME_EXCHANGE of directories", lambda: (os.mkdir("fresh"), renames(2, b"fresh", b"dir"))[1])
attempt("RENAME_NOREPLACE", lambda: renames(1))
attempt("over a directory that is not empty", lambda: os.rename("fresh", "other"))
attempt("over an empty one", lambda: os.rename("fresh", "dir"))
attempt("setgid", inherits)
attempt("link", lambda: os.link("dir/a", "group/a"))
attempt("user xattr", lambda: os.setxattr("dir", "user.x", b"1"))
attempt("trusted xattr", lambda: os.setxattr("h1", "trusted.x", b"1"))
attempt("capability", lambda: os.setxattr("h1", "security.capability", bytes.fromhex("01000002" "0020" + "0" * 28)))
attempt("directory time", lambda: os.utime("other", (5, 5)))
attempt("sparse", lambda: (os.truncate("h1", 1 << 40), None)[1])
attempt("O_DIRECT", lambda: os.close(os.open("direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)))
"""


def test_what_cannot_be_had_is_what_is_told(guest: QemuMachine) -> None:
    """The left of these are what `metadata.file_system` names; whatever else fails here is to be added to it."""
    told = dict(line.rsplit(" ", 1) for line in _run_python(guest, TRY).splitlines() if not line.startswith("setgid"))
    refused = {name: told.pop(name) for name in [*told] if told[name] not in ("ok", "EEXIST", "ENOTEMPTY", "EAGAIN")}
    assert refused == {
        "O_TMPFILE": "ENOTSUP",
        "name_to_handle_at": "ENOTSUP",
        "swapon": "EINVAL",
        "overlay": "EINVAL",
        "RENAME_WHITEOUT": "EINVAL",
        "mknod 0, 0": "EPERM",
        "mmap": "NEWdirNEW",
    }
    assert [name for name in told if told[name] != "ok"] == [
        "flock",
        "RENAME_NOREPLACE",
        "over a directory that is not empty",
    ]


def _run_python(machine: QemuMachine, script: str) -> str:
    return _output(machine.channel.open("exec", {"argv": [*PYTHON, "-c", script], "timeout_seconds": 60}))
