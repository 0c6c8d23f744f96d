"""A git checkout as a source: the tracked files as they lie there, those untracked and not ignored, and a `.git` that
works on the copy.

This host's git says which files those are, from a git directory made for the question: it holds a copy of the index and
of `info/exclude`, and nothing else of the repository (`system.git` says why). What it says is a list of names; the walk
decides what is read.

A repository at work may change while it is read. It is looked over before and after, and a difference is `Conflict`.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyro_mcp.errors import Conflict, InvalidArgument, NotFound, Unsupported
from pyro_mcp.model.sync import Skipped
from pyro_mcp.protocol.entries import Entry, Piece
from pyro_mcp.system import git
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.system.process import CommandFailed
from pyro_mcp.trees.git_directory import DIRECTORY, GitConfig, GitDirectory, Mark, stays
from pyro_mcp.trees.limits import Limits, require_wanted
from pyro_mcp.trees.source import DirectorySource, Selection
from pyro_mcp.trees.work import work_directory

ALTERNATES = "objects/info/alternates"
INDEX_MAX = 1 << 29
LISTING_MAX = 1 << 26
LOCK_SECONDS = 5.0
_LOCK_INTERVAL = 0.05
SUBMODULE = "a submodule is left out: its directory is empty"
NESTED = "a repository of its own is left out"
PARTIAL = "a partial clone: what it has not fetched is missing"
WITHOUT_GIT = "To take the files alone, give <<create_workspace.seed_path>> without <<create_workspace.git>>"


class Changed(Conflict):
    """The repository changed while it was read; another try may find it at rest."""


@dataclass(frozen=True)
class Checkout:
    """A checkout as it was found: what of it travels, and where it stands."""

    root: Path
    selection: Selection
    marks: Mapping[str, Mark]
    head: str | None
    branch: str | None
    skipped: list[Skipped]


class CheckoutSource(DirectorySource):
    """A checkout as a sequence of entries. Raises `Changed` at the end if git was at work meanwhile."""

    mode = "git"

    def __init__(
        self, checkout: Checkout, *, limits: Limits | None = None, cancelled: threading.Event | None = None
    ) -> None:
        super().__init__(checkout.root, selection=checkout.selection, limits=limits, cancelled=cancelled)
        self.checkout = checkout
        self.skipped.extend(checkout.skipped)

    def __iter__(self) -> Iterator[Entry | Piece]:
        yield from super().__iter__()
        with disk_errors(f"read {self.checkout.root}"), _opened(self.checkout.root) as found:
            if found.census() != self.checkout.marks:
                raise Changed(
                    f"cannot read {self.checkout.root}: git changed its repository meanwhile",
                    hint="Try again when git has ended",
                )


def read_checkout(
    path: Path, work: Path, environ: Mapping[str, str], *, cancelled: threading.Event | None = None
) -> Checkout:
    """The checkout that holds `path`. Works in a private directory below `work`; `environ` is the user's.

    Raises `NotFound`, `Unsupported`, `Conflict`, `InvalidArgument`, `MissingDependency`, `Cancelled` and what reading
    raises.
    """
    root = git.top_level(path)
    if root is None:
        raise NotFound(f"cannot find a git checkout at {path}: there is no .git in it or above it", hint=WITHOUT_GIT)
    with disk_errors(f"read {root}"), _opened(root) as found:
        _refuse(root, found)
        _await_lock(root, found, cancelled)
        with work_directory(work, ".git-") as own:
            return _read(root, found, own, environ)


@contextlib.contextmanager
def _opened(root: Path) -> Iterator[GitDirectory]:
    about = os.stat(root / ".git", follow_symlinks=False)
    if not stat.S_ISDIR(about.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(about.st_mode) else "a file: a linked work tree or a submodule"
        raise Unsupported(
            f"cannot take {root} with its repository, which lies elsewhere: .git is {what}",
            hint=f"Give the main checkout, or a clone. {WITHOUT_GIT}",
        )
    found = GitDirectory(os.open(root / ".git", DIRECTORY), root)
    try:
        yield found
    finally:
        found.close()


def _refuse(root: Path, found: GitDirectory) -> None:
    """What would not work inside."""
    if found.read("HEAD", 4096) is None or not found.has("objects"):
        raise InvalidArgument(f"cannot take {root} with its repository: .git is no repository", hint=WITHOUT_GIT)
    if found.has("commondir"):
        raise Unsupported(f"cannot take {root} with its repository, which lies elsewhere", hint=WITHOUT_GIT)
    borrowed = found.read(ALTERNATES, 1 << 20)
    if (borrowed is None and found.has(ALTERNATES)) or (borrowed and borrowed.strip()):
        raise Unsupported(
            f"cannot take {root} with its repository: it borrows objects from another ({ALTERNATES})",
            hint=f"`git repack -a -d && rm .git/{ALTERNATES}` makes it stand alone, or give a clone made "
            f"without --shared and --reference. {WITHOUT_GIT}",
        )


def _await_lock(root: Path, found: GitDirectory, cancelled: threading.Event | None) -> None:
    """Wait for a git that is changing the index: what lies there may be half of it."""
    deadline = time.monotonic() + LOCK_SECONDS
    while found.has("index.lock"):
        require_wanted(f"reading {root}", cancelled)
        if time.monotonic() > deadline:
            raise Conflict(
                f"cannot read {root}: git is at work in it, .git/index.lock is there",
                hint="Wait until it has ended. If no git runs, one was killed: remove that file",
            )
        time.sleep(_LOCK_INTERVAL)


def _read(root: Path, found: GitDirectory, own: Path, environ: Mapping[str, str]) -> Checkout:
    marks = found.census()
    env = git.environment(environ)
    config = _config(root, found, own, env)
    tracked, untracked = _listed(root, found, own, env, config, marks)
    skipped = [Skipped(path=path, reason=SUBMODULE) for path, mode in tracked.items() if mode == "160000"]
    skipped += [Skipped(path=path.rstrip("/"), reason=NESTED) for path in untracked if path.endswith("/")]
    skipped += [Skipped(path=path, reason=reason) for path, reason in stays(found)]
    if config.partial:
        skipped.append(Skipped(path=".git/objects", reason=PARTIAL))
    if left := config.left():
        skipped.append(Skipped(path=".git/config", reason=left))
    written = {".git/config": config.text()}
    written |= {f".git/{path}": text for path, text in found.cleaned(marks).items()}
    files = [path for path in (*tracked, *untracked) if not path.endswith("/") and not _inside_git(path)]
    head, branch = found.head()
    selection = Selection((*files, *(f".git/{path}" for path in marks)), written)
    return Checkout(root, selection, marks, head, branch, skipped)


def _config(root: Path, found: GitDirectory, own: Path, env: Mapping[str, str]) -> GitConfig:
    """The settings of the repository, read from a copy by a git that looks at nothing but it."""
    (own / "objects").mkdir()
    (own / "refs").mkdir()
    (own / "HEAD").write_text("ref: refs/heads/none\n")
    (own / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = false\n")
    listed = b""
    for name in ("config", "config.worktree"):
        copy = own / f"their-{name}"
        found.copy(name, copy, 1 << 20)
        if copy.exists():
            words = ("config", "--file", str(copy), "--no-includes", "-z", "--list")
            try:
                listed += git.ask(words, git_dir=own, env=env)
            except CommandFailed as error:
                raise InvalidArgument(f"cannot read {root}/.git/{name}: {error.message}", hint=WITHOUT_GIT) from None
    config = GitConfig(listed, root)
    config.check()
    return config


def _listed(
    root: Path, found: GitDirectory, own: Path, env: Mapping[str, str], config: GitConfig, marks: Mapping[str, Mark]
) -> tuple[dict[str, str], list[str]]:
    """The tracked paths with their modes, and those that are neither tracked nor ignored."""
    (own / "info").mkdir()
    for name in ("info/exclude", *(path for path in marks if path.partition(".")[0] in ("index", "sharedindex"))):
        found.copy(name, own / name, INDEX_MAX)
    if config.value("extensions.objectformat") == "sha256":
        (own / "config").write_text(
            "[core]\n\trepositoryformatversion = 1\n\tbare = false\n[extensions]\n\tobjectFormat = sha256\n"
        )
    # What has no files here needs none, and its objects are not at hand.
    sparse = ("--sparse",) if config.value("index.sparse") == "true" else ()
    words = ("ls-files", "-z", "-t", "--stage", "--cached", "--others", "--exclude-standard", *sparse)
    try:
        said = git.ask(words, git_dir=own, work_tree=root, env=env, limit=LISTING_MAX)
    except CommandFailed as error:
        raise InvalidArgument(f"cannot list the files of {root}: {error.message}", hint=WITHOUT_GIT) from None
    if len(said) >= LISTING_MAX:
        raise InvalidArgument(f"cannot take {root}: it has too many files", hint="Ignore what the work does not need")
    return _parsed(said)


def _parsed(said: bytes) -> tuple[dict[str, str], list[str]]:
    tracked: dict[str, str] = {}
    untracked = []
    for item in said.split(b"\0"):
        if item.startswith(b"? "):
            untracked.append(os.fsdecode(item[2:]))
        elif item:
            about, _, path = item[2:].partition(b"\t")
            tracked[os.fsdecode(path)] = about.partition(b" ")[0].decode("ascii", "replace")
    return tracked, untracked


def _inside_git(path: str) -> bool:
    """An index that git has not written may name anything."""
    return any(part.casefold() == ".git" for part in path.split("/"))
