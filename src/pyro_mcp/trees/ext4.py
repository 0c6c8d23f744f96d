"""A guest's ext4 image read by this host without ever mounting it: debugfs and e2fsck do, shut in and in bounds.

Everything in the image is hostile. Files are known by inode number, so no name of the guest's is ever part of a
command, and what the tools print is read as names that cannot hold a slash.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyro_mcp.errors import ProtocolError
from pyro_mcp.system.process import CommandFailed, find_program, require_program, run_into

ROOT = 2
LISTING_BYTES = 64 * 1024 * 1024
SECONDS = 120.0
_ENTRY = re.compile(rb"/(\d+)/(\d{6})/\d+/\d+/([^/\0]+)/(\d*)/\n")
_DIGITS = re.compile(rb"[0-9a-f \n]*")
_FAST_LINK = re.compile(rb'^Fast link dest: "(.*)"$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Inode:
    """One file of the image. `mode` is that of stat(2); sizes are as the image claims."""

    inode: int
    mode: int
    size: int

    @property
    def whiteout(self) -> bool:
        """Whether this is an overlay's mark for a name that is gone."""
        return self.mode == stat.S_IFCHR


class Ext4:
    """The image at `path`, alone in its directory with what is written beside it. Raises `ProtocolError` when the
    image is broken, `TimedOut` and `MissingDependency`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def replay(self) -> None:
        """Finish what its journal has begun; for an image that was not unmounted."""
        self._check("-y", "-E", "journal_only")

    def clean(self) -> None:
        """Repair it and give the content of everything deleted back as holes."""
        self._check("-f", "-y")
        # Apart, because a run that repairs something gives nothing back.
        self._check("-f", "-y", "-E", "discard")

    def listing(self, inodes: Sequence[int]) -> list[dict[str, Inode]]:
        """What each of the directories holds, by name."""
        return [self._entries(output) for output in self._ask([f"ls -p <{inode}>" for inode in inodes])]

    def lookup(self, *names: str) -> Inode | None:
        """The file at a path of our own making, from the root."""
        found: Inode | None = Inode(ROOT, stat.S_IFDIR, 0)
        for name in names:
            found = self.listing([found.inode])[0].get(name) if found else None
        return found

    def opaque(self, inodes: Sequence[int]) -> list[bool]:
        """Whether each of the directories hides what an overlay has below it."""
        return [value == b"y" for value in self._attributes(inodes, "trusted.overlay.opaque")]

    def redirects(self, inodes: Sequence[int]) -> list[str]:
        """Where an overlay finds what is below each of the directories; empty where that is at its own name."""
        values = self._attributes(inodes, "trusted.overlay.redirect")
        return [value.decode("utf-8", "surrogateescape") for value in values]

    def _attributes(self, inodes: Sequence[int], name: str) -> list[bytes]:
        """The extended attribute of each, empty where there is none. As digits: a value could look like an answer."""
        answers = self._ask([f"ea_get -x -V <{inode}> {name}" for inode in inodes])
        return [bytes.fromhex(answer.decode("ascii")) if _DIGITS.fullmatch(answer) else b"" for answer in answers]

    def targets(self, nodes: Sequence[Inode]) -> list[str]:
        """Where each of the symbolic links points."""
        found = []
        for node, answer in zip(nodes, self._ask([f"stat <{node.inode}>" for node in nodes]), strict=True):
            fast = _FAST_LINK.search(answer)
            target = fast.group(1) if fast else self.content(node, 4096)
            found.append(target[:4096].decode("utf-8", "surrogateescape"))
        return found

    def content(self, node: Inode, limit: int) -> bytes:
        """The first `limit` bytes of a file."""
        return self._run([f"cat <{node.inode}>"], limit)

    def remove_below(self, directory: Inode) -> int:
        """Free every file below `directory`, whose names `clean` then takes away; how many."""
        doomed: list[int] = []
        level, seen = [directory.inode], {ROOT, directory.inode}
        while level:
            found = {node.inode: node for entries in self.listing(level) for node in entries.values()}
            fresh = [node for inode, node in found.items() if inode not in seen]
            seen |= set(found)
            doomed += [node.inode for node in fresh]
            level = [node.inode for node in fresh if stat.S_ISDIR(node.mode)]
            if len(doomed) > 100_000:
                raise ProtocolError("cannot clean the disk: there are too many runtime files on it")
        for start in range(0, len(doomed), 1000):
            batch = doomed[start : start + 1000]
            # The first frees the blocks; without the second, a repair would bring the file back.
            requests = [f"{verb} <{inode}>" for inode in batch for verb in ("kill_file", "clri")]
            self._run(requests, LISTING_BYTES, write=True)
        return len(doomed)

    def _entries(self, output: bytes) -> dict[str, Inode]:
        entries: dict[str, Inode] = {}
        for inode, mode, name, size in _ENTRY.findall(output):
            shown = name.decode("utf-8", "surrogateescape")
            if shown not in (".", "..") and int(inode):
                entries[shown] = Inode(int(inode), int(mode, 8), int(size or 0))
        return entries

    def _ask(self, requests: Sequence[str]) -> list[bytes]:
        """The answer to each request."""
        answers = []
        for start in range(0, len(requests), 500):
            batch = requests[start : start + 500]
            answers += _apart(self._run(batch, LISTING_BYTES, echo=True), batch)
        return answers

    def _run(self, requests: Iterable[str], limit: int, *, write: bool = False, echo: bool = False) -> bytes:
        work = self.path.parent
        lines = [*requests]
        (work / "requests").write_text("\n".join(lines) + "\n")
        how = ["-f", str(work / "requests")] if echo or write else ["-R", lines[0]]
        command = [require_program("debugfs"), *(["-w"] if write else []), *how, str(self.path)]
        try:
            return run_into(confined(command, work), limit=limit, timeout=SECONDS)
        except CommandFailed as error:
            raise ProtocolError(f"cannot read the disk: {error.message[:300]}") from None

    def _check(self, *flags: str) -> None:
        command = confined([require_program("e2fsck"), *flags, str(self.path)], self.path.parent)
        try:
            if len(run_into(command, limit=LISTING_BYTES, timeout=SECONDS)) == LISTING_BYTES:
                raise ProtocolError("cannot read the disk: there is no end of what is broken in its file system")
        except CommandFailed as error:
            # 1 and 2: errors were found and corrected.
            if error.status not in (1, 2):
                raise ProtocolError(f"cannot read the disk: its file system is broken: {error.message[:300]}") from None


def confined(command: Sequence[str], work: Path) -> list[str]:
    """`command` without network, other processes or new rights, and in bounds of memory and time; under bubblewrap it
    also sees nothing but the system's programs and may write to `work` only."""
    limits = [require_program("prlimit"), f"--as={2 << 30}", f"--cpu={int(SECONDS)}", "--nofile=64", "--core=0"]
    if bwrap := find_program("bwrap"):
        system = [
            word for name in ("/usr", "/bin", "/sbin", "/lib", "/lib64") for word in ("--ro-bind-try", name, name)
        ]
        shut = [str(bwrap), "--unshare-all", "--die-with-parent", "--new-session", *system, "--dev", "/dev"]
        return [*shut, "--proc", "/proc", "--bind", str(work), str(work), *limits, *command]
    shut = [require_program("unshare"), "--user", "--map-root-user", "--net", "--ipc", "--uts", "--pid", "--fork"]
    return [*shut, "--kill-child", require_program("setpriv"), "--no-new-privs", *limits, *command]


def _apart(output: bytes, requests: Sequence[str]) -> list[bytes]:
    """What was said to each request, which debugfs repeats before it answers."""
    answers, at = [], 0
    marks = [f"debugfs: {request}\n".encode() for request in requests]
    for number, mark in enumerate(marks):
        if not output.startswith(mark, at):
            raise ProtocolError("cannot read the disk: debugfs said something else than was asked")
        at += len(mark)
        end = _end(output, at, marks[number + 1] if number + 1 < len(marks) else None)
        answers.append(output[at:end])
        at = end
    return answers


def _end(output: bytes, at: int, following: bytes | None) -> int:
    """Where an answer ends. Entries of a directory are stepped over whole, because their names may look like marks."""
    while following is not None and at < len(output) and not output.startswith(following, at):
        entry = _ENTRY.match(output, at)
        line = output.find(b"\n", at)
        at = entry.end() if entry else line + 1 if line >= 0 else len(output)
    return len(output) if following is None else at
