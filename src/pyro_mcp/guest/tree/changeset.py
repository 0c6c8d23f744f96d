"""changeset: what operations on files come to, as steps of which each path has one.

The operations are followed in thought, each seeing what those before it leave; all that can be refused is refused here,
before anything is touched. Only where a path begins and where it ends up becomes a step, so the steps can be taken back
by looking at what is there. No link is followed anywhere.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from pyro_mcp.guest.errors import AgentError, invalid
from pyro_mcp.guest.tree.files import digest_of
from pyro_mcp.guest.tree.paths import ResolvedPath, Tree, absolute, artifact_type, show
from pyro_mcp.guest.tree.precondition import verify
from pyro_mcp.guest.tree.stage import Stage, listing
from pyro_mcp.guest.tree.transaction import Step, look

Parts = tuple[bytes, ...]
_KINDS = {"directory": "a directory", "symlink": "a symbolic link", "other": "not a regular file"}


class Item(NamedTuple):
    """What is at a path: as it was found at `origin`, or `staged` under a name, its digest then known."""

    kind: str
    mode: int
    uid: int = -1
    gid: int = -1
    origin: Parts | None = None
    staged: bytes | None = None
    digest: str | None = None
    seen: tuple[int, ...] = ()


class ChangePlan:
    """Operations so far. Every method raises `AgentError` or `OSError` for one that cannot be."""

    def __init__(self, tree: Tree, stage: Stage) -> None:
        self._tree = tree
        self._stage = stage
        self._before: dict[Parts, Item | None] = {}
        self._now: dict[Parts, Item | None] = {}
        self._made: dict[Parts, None] = {}
        self._left: dict[Parts, None] = {}
        """Directories from which something goes."""
        self._count = 0

    # -- operations

    def write(self, parts: Parts, staged: bytes, digest: str, mode: int | None, expected: object) -> None:
        """The staged file takes the place of a file, whose owner and, unless `mode` says otherwise, mode it keeps."""
        old = self._target(parts, "write", "file", expected)
        if mode is None:
            mode = old.mode & 0o777 if old else 0o644
        self._now[parts] = Item("file", mode, old.uid if old else -1, old.gid if old else -1, None, staged, digest)

    def link(self, parts: Parts, staged: bytes, digest: str, expected: object) -> None:
        """The staged link takes the place of a link, or of nothing."""
        self._target(parts, "link", "symlink", expected)
        self._now[parts] = Item("symlink", 0o777, staged=staged, digest=digest)

    def delete(self, parts: Parts, expected: object) -> None:
        """A file or a link goes, and the directories that this empties."""
        self._verify(parts, self._existing(parts, "delete", ("file", "symlink")), "delete", expected)
        self._remove(parts)

    def mode(self, parts: Parts, mode: int, expected: object) -> None:
        """A file's permissions change."""
        item = self._existing(parts, "change", ("file",))
        self._verify(parts, item, "change", expected)
        self._now[parts] = item._replace(mode=mode)

    def rename(self, parts: Parts, to: Parts, mode: int | None, expected: object) -> None:
        """A file or a link moves to where nothing is."""
        item = self._existing(parts, "rename", ("file", "symlink"))
        self._verify(parts, item, "rename", expected)
        if self._look(to) is not None:
            raise AgentError("conflict", f"cannot rename to {_shown(to)}: it exists already", "Remove it first.")
        self._remove(parts)
        self._parents(to)
        self._now[to] = item._replace(mode=mode) if mode is not None and item.kind == "file" else item

    # -- what is where

    def _target(self, parts: Parts, verb: str, kind: str, expected: object) -> Item | None:
        old = self._look(parts)
        if old is not None and old.kind == "directory" and self._emptied(parts):
            old = None
        if old is not None and old.kind != kind:
            raise invalid(f"cannot {verb} {_shown(parts)}: it is {_KINDS.get(old.kind, 'a file')}")
        self._verify(parts, old, verb, expected)
        self._parents(parts)
        return old

    def _existing(self, parts: Parts, verb: str, kinds: tuple[str, ...]) -> Item:
        item = self._look(parts)
        if item is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if item.kind not in kinds:
            raise invalid(f"cannot {verb} {_shown(parts)}: it is {_KINDS[item.kind]}")
        return item

    def _remove(self, parts: Parts) -> None:
        self._now[parts] = None
        self._left[parts[:-1]] = None

    def _look(self, parts: Parts) -> Item | None:
        if parts in self._made:
            return Item("directory", 0o755)
        if parts in self._now:
            return self._now[parts]
        if parts not in self._before:
            self._before[parts] = self._find(parts)
        return self._before[parts]

    def _find(self, parts: Parts) -> Item | None:
        for length in range(1, len(parts)):
            above = parts[:length]
            if above in self._made:
                return None
            if above in self._now:
                if self._now[above] is not None:
                    raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                return None
        try:
            with self._tree.find(list(parts), links=False) as place:
                return _item(place, parts) if place.exists else None
        except FileNotFoundError:
            return None

    def _parents(self, parts: Parts) -> None:
        for length in range(1, len(parts)):
            above = parts[:length]
            item = self._look(above)
            if item is None:
                self._made[above] = None
            elif item.kind != "directory":
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))

    def _verify(self, parts: Parts, item: Item | None, verb: str, expected: object) -> None:
        verify(lambda: f"cannot {verb} {_shown(parts)}", expected, None if item is None else lambda: self._digest(item))

    def _digest(self, item: Item) -> str:
        if item.digest is not None or item.origin is None:
            return str(item.digest)
        with self._tree.existing(list(item.origin), links=False) as place:
            return digest_of(place)

    def _occupied(self) -> set[Parts]:
        """Every directory in or below which something is or comes that the operations name."""
        live = [parts for parts, item in self._now.items() if item is not None]
        return {parts[:length] for parts in live for length in range(len(parts))}

    def _emptied(self, parts: Parts) -> bool:
        """Whether these operations have left nothing in a directory; one that was empty before stays."""
        return any(left[: len(parts)] == parts for left in self._left) and self._empties(parts, self._occupied())

    def _empties(self, parts: Parts, occupied: set[Parts], dropped: frozenset[Parts] = frozenset()) -> bool:
        """Whether nothing is left in a directory that is there."""
        if parts in occupied:
            return False
        with self._tree.existing(list(parts), links=False) as place:
            names = listing(place.fd) if place.is_directory() else [b"itself"]
        return all(self._goes((*parts, name), dropped) for name in names)

    def _goes(self, parts: Parts, dropped: frozenset[Parts]) -> bool:
        """Whether what is there is deleted, or a directory in which only such things are."""
        if parts in self._now:
            return self._now[parts] is None
        return parts in dropped or self._emptied(parts)

    # -- steps

    def steps(self) -> list[Step]:
        """All of it. What is moved gets a second name in the stage, what is staged its owner and mode."""
        modes, puts, takes = [], [], []
        replaced: list[Parts] = []
        for parts, item in self._now.items():
            before = self._before.get(parts)
            if before is not None and before.kind == "directory":
                replaced += [parts] if item is not None else []
                before = None
            if item is not None and item.origin is not None and item.mode != self._mode_at(item.origin):
                modes.append(self._mode(item.origin, item.mode))
            if before is not None and item is None:
                takes.append(self._leave("take", parts, b"", before))
            elif before is not None and item is not None and item.origin != parts:
                puts.append(self._leave("swap", parts, self._source(item), before))
            elif before is None and item is not None:
                puts.append(Step("put", b"/".join(parts), self._source(item)))
        makes = [Step("make", b"/".join(parts)) for parts in sorted(self._occupied() & self._made.keys())]
        within = self._within(replaced)
        early = [self._drop(parts) for parts in within]
        # A name may have to be free before something else gets it.
        return [*modes, *takes, *early, *makes, *puts, *self._tidy(within)]

    def _within(self, replaced: list[Parts]) -> list[Parts]:
        """The directories that give way to a file, and those in them, the deepest first."""
        found = {
            left[:length]
            for top in replaced
            for left in self._left
            if left[: len(top)] == top
            for length in range(len(top), len(left) + 1)
        }
        return sorted(found, key=len, reverse=True)

    def _mode_at(self, origin: Parts) -> int:
        found = self._before[origin]
        assert found is not None
        return found.mode

    def _mode(self, origin: Parts, mode: int) -> Step:
        return Step("mode", b"/".join(origin), before=self._mode_at(origin), after=mode)

    def _leave(self, kind: str, parts: Parts, staged: bytes, before: Item) -> Step:
        self._count += 1
        return Step(kind, b"/".join(parts), staged, b"o%d" % self._count, seen=before.seen)

    def _source(self, item: Item) -> bytes:
        if item.staged is not None:
            if item.kind == "file":
                self._dress(item)
            return item.staged
        assert item.origin is not None
        self._count += 1
        name = b"m%d" % self._count
        with self._tree.existing(list(item.origin), links=False) as place:
            os.link(place.name, name, src_dir_fd=place.parent, dst_dir_fd=self._stage.fd, follow_symlinks=False)
        return name

    def _dress(self, item: Item) -> None:
        assert item.staged is not None
        with self._stage.find(item.staged) as place:
            own = f"/proc/self/fd/{place.fd}"
            if item.uid >= 0 and (item.uid, item.gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
                os.chown(own, item.uid, item.gid)
            os.chmod(own, item.mode)

    def _drop(self, parts: Parts) -> Step:
        with self._tree.existing(list(parts), links=False) as place:
            status = place.stat()
        name = b"/".join(parts)
        return Step("drop", name, before=stat.S_IMODE(status.st_mode), uid=status.st_uid, gid=status.st_gid)

    def _tidy(self, gone: list[Parts]) -> list[Step]:
        """Directories that a deletion or a move has emptied go, as with git."""
        occupied, dropped = self._occupied(), dict.fromkeys(gone)
        found = []
        for left in sorted(self._left, key=len, reverse=True):
            parts = left
            while parts and parts not in dropped and self._is_there(parts):
                if not self._empties(parts, occupied, frozenset(dropped)):
                    break
                dropped[parts] = None
                found.append(self._drop(parts))
                parts = parts[:-1]
        return found

    def _is_there(self, parts: Parts) -> bool:
        with self._tree.find(list(parts), links=False) as place:
            return place.is_directory()


def _item(place: ResolvedPath, parts: Parts) -> Item:
    status = place.stat()
    kind = artifact_type(status.st_mode)
    return Item(kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, parts, seen=look(place))


def _shown(parts: Parts) -> str:
    return show(absolute(list(parts)))
