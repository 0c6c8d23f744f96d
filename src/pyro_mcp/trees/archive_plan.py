"""What a tree is after the last member of an archive: the members followed in thought, each seeing what those before it
left, as `tar -x` would leave it in an empty directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyro_mcp.model.sync import Skipped
from pyro_mcp.protocol.entries import Entry, EntryError, check, safe_path
from pyro_mcp.trees.attributes import LINKED, PRIVILEGED, ROOT, TIME, kept_time, kept_xattrs
from pyro_mcp.trees.limits import Limits, Meter
from pyro_mcp.trees.tar import Damaged, Member, show

AGAIN = "the archive has it more than once; the last one was taken"
_LEFT_OUT = {
    "device": "a device",
    "pipe": "a named pipe",
    "label": "the label of the archive",
    "continuation": "the rest of a file that begins in another volume",
}
_TAKING_PLACE = ("device", "pipe")
"""Of these, what would stand under its name."""


@dataclass(slots=True)
class PlanNode:
    """A file, link or directory. Names that are hard links to each other have the same one. `inside` counts what a
    directory holds."""

    kind: str
    mode: int
    mtime_ns: int
    member: Member
    xattrs: tuple[tuple[str, bytes], ...] = ()
    inside: int = 0


class ArchivePlan:
    """Take members by `add`, in their order; then ask. Raises `Damaged`, `EntryError` and, at a limit,
    `InvalidArgument`; `what` completes "cannot …"."""

    def __init__(self, limits: Limits, what: str) -> None:
        self._meter = Meter(limits, what)
        self._nodes: dict[str, PlanNode] = {}
        self._notes: dict[tuple[str, str], None] = {}
        self._left_out: set[str] = set()
        self._count = 0

    @property
    def skipped(self) -> list[Skipped]:
        """What was left out or altered."""
        return [Skipped(path=path, reason=reason) for path, reason in self._notes]

    def add(self, member: Member) -> None:
        self._count += 1
        try:
            self._add(member)
        except EntryError as error:
            raise Damaged(f"member {self._count:,}, {show(member.name[:100])}, cannot be taken: {error}") from None

    def _add(self, member: Member) -> None:
        path = plain(member.name)
        if member.kind in _LEFT_OUT:
            self._meter.add(path, member.size)
            self._leave_out(path, _LEFT_OUT[member.kind], takes_place=member.kind in _TAKING_PLACE)
            return
        if path == "":
            self._root(member)
            return
        self._meter.add(path, member.size)
        self._parents(path, member)
        if member.kind == "hardlink":
            self._link(path, member)
        else:
            self._put(path, self._node(path, member))

    def directories(self) -> Iterator[Entry]:
        """Parents first."""
        for path, node in self._nodes.items():
            if node.kind == "directory":
                yield check(Entry(path, "directory", node.mode, node.mtime_ns, xattrs=node.xattrs))

    def others(self) -> Iterator[tuple[PlanNode, list[str]]]:
        """Files and links with all their names, in the order of their bytes."""
        names: dict[int, tuple[PlanNode, list[str]]] = {}
        for path, node in self._nodes.items():
            if node.kind != "directory":
                names.setdefault(id(node), (node, []))[1].append(path)
        yield from sorted(names.values(), key=lambda pair: pair[0].member.offset)

    def _root(self, member: Member) -> None:
        """The directory that all is in is there already."""
        if member.kind != "directory":
            raise Damaged(f"member {self._count:,}, {show(member.name)}, is a {member.kind} that has no name")
        if member.mode & 0o2000 or any(kept_xattrs(member.xattrs)):
            self._note(".", ROOT)

    def _node(self, path: str, member: Member) -> PlanNode:
        lost = 0o4000 if member.kind == "directory" else 0o6000
        if member.kind != "symlink" and member.mode & lost:
            self._note(path, PRIVILEGED)
        mtime_ns = kept_time(member.mtime_ns)
        if mtime_ns != member.mtime_ns:
            self._note(path, TIME)
        xattrs, reasons = kept_xattrs(member.xattrs, link=member.kind == "symlink")
        for reason in reasons:
            self._note(path, reason)
        return PlanNode(member.kind, member.mode & ~lost, mtime_ns, member, xattrs)

    def _put(self, path: str, node: PlanNode) -> None:
        """Give `path` to the node; who had it before loses it."""
        old = self._nodes.get(path)
        if old is not None and old.kind == node.kind == "directory":
            node.inside = old.inside
            self._nodes[path] = node
            return
        if node.kind == "symlink":
            _check_target(path, node.member.target)
        if old is not None:
            self._take_away(path, old, node.kind)
        self._left_out.discard(path)
        above = path.rpartition("/")[0]
        if above:
            self._nodes[above].inside += 1
        self._nodes[path] = node

    def _take_away(self, path: str, old: PlanNode, kind: str) -> None:
        if old.inside:
            raise Damaged(f"{show(path)} is a directory that holds something, and comes again as a {kind}")
        self._note(path, AGAIN)
        del self._nodes[path]
        above = path.rpartition("/")[0]
        if above:
            self._nodes[above].inside -= 1

    def _leave_out(self, path: str, reason: str, *, takes_place: bool) -> None:
        self._note(path or ".", reason)
        if takes_place:
            old = self._nodes.get(path)
            if old is not None:
                self._take_away(path, old, reason)
            self._left_out.add(path)

    def _link(self, path: str, member: Member) -> None:
        try:
            target = plain(member.target.lstrip("/"))
        except EntryError as error:
            raise Damaged(f"{show(path)} is a hard link to {show(member.target)}: {error}") from None
        if target in self._left_out:
            self._leave_out(path, f"a hard link to {show(target)}, which was left out", takes_place=True)
            return
        node = self._nodes.get(target)
        if node is None or node.kind == "directory":
            raise Damaged(f"{show(path)} is a hard link to {show(member.target)}, which is no file before it")
        if node.kind == "symlink":
            self._note(path, LINKED)
        if target != path:
            self._put(path, node)

    def _parents(self, path: str, member: Member) -> None:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            node = self._nodes.get(above)
            if node is None:
                self._meter.add(above, 0)
                self._put(above, PlanNode("directory", 0o755, kept_time(member.mtime_ns), member))
            elif node.kind != "directory":
                raise Damaged(f"{show(path)} lies below {show(above)}, which is a {node.kind}")

    def _note(self, path: str, reason: str) -> None:
        self._notes[path, reason] = None


def _check_target(path: str, target: str) -> None:
    try:
        check(Entry(path, "symlink", target=target))
    except EntryError as error:
        what = f"to {show(target[:100])}: {error}" if target else "to nothing"
        raise Damaged(f"{show(path)} is a symbolic link {what}") from None


def plain(name: str) -> str:
    """The path of a member's name; "" for the root itself. Raises `EntryError` for what is no plain relative path."""
    text = name
    while text.startswith("./"):
        text = text[2:].lstrip("/") if text[2:3] == "/" else text[2:]
    text = text.rstrip("/")
    if text in ("", ".") and not name.startswith("/"):
        return ""
    return safe_path("/".join(_parts(text)) if "/" in text else text)


def _parts(text: str) -> list[str]:
    """Without those that lead nowhere. An absolute name keeps its empty beginning, which is refused."""
    first, *others = text.split("/")
    return [part for part in [first] if part != "."] + [part for part in others if part not in ("", ".")]
