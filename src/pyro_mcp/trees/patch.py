"""A patch becomes a list of operations on files, all or nothing; nothing is changed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.count import count_of
from pyro_mcp.trees.hunks import apply_hunks
from pyro_mcp.trees.names import show
from pyro_mcp.trees.patch_names import paths, refused
from pyro_mcp.trees.patch_text import SHAPE, FilePatch, Hunk, parse

MAX_PATCH_BYTES = 16 * 1024**2
MAX_FILES = 10_000

LINK_MODE = b"120000"
MAX_TARGET = 4095
"""Bytes of a link's text."""
_WORDS = {"file": "a file", "symlink": "a symbolic link"}

FileKind = Literal["file", "symlink"]


@dataclass(frozen=True)
class Present:
    """What is at a path: a file's bytes, or the text of a symbolic link."""

    content: bytes
    kind: FileKind = "file"
    mode: int = 0o644

    @property
    def git_mode(self) -> int:
        """0755 or 0644, as git knows them."""
        return 0o755 if self.mode & 0o100 else 0o644


Read = Callable[[str], Present | None]
"""Gives what is at a path below /workspace, following no link; None when nothing is, or a directory."""


@dataclass(frozen=True)
class PatchOperation:
    """One step. `before_sha256` is the digest of what stands at `path` now; None: nothing may stand there.

    `write`: make or replace the file `path` by `content`; `mode` None keeps the old one, or is 0644 for a new file.
    `link`: make or replace the symbolic link `path`, with `content` as its text.
    `delete`: remove `path`. `mode`: change permissions only. `rename`: move `path` to `to`, where nothing stands; a
    changed file is written there next.
    """

    kind: Literal["write", "link", "delete", "mode", "rename"]
    path: str
    content: bytes | None = None
    mode: int | None = None
    to: str | None = None
    before_sha256: str | None = None


def statuses(operations: list[PatchOperation]) -> dict[str, Literal["added", "modified", "deleted"]]:
    """What happens to each path, once for each."""
    found: dict[str, Literal["added", "modified", "deleted"]] = {}
    for step in operations:
        if step.to is not None:
            found[step.path], found[step.to] = "deleted", "added"
        elif step.kind == "delete":
            found[step.path] = "deleted"
        elif found.get(step.path) == "deleted":
            found[step.path] = "modified"
        else:
            found.setdefault(step.path, "modified" if step.before_sha256 else "added")
    return dict(sorted(found.items()))


def plan(patch_text: str | bytes, read: Read) -> list[PatchOperation]:
    """What `patch_text` does to the files that `read` gives; deletions first, so that names are free when needed.

    Raises `InvalidArgument`, naming file and hunk: a patch that cannot be read, may not be applied, or does not fit.
    """
    text = patch_text.encode("utf-8", "surrogateescape") if isinstance(patch_text, str) else patch_text
    if len(text) > MAX_PATCH_BYTES:
        raise InvalidArgument(f"cannot read the patch: {count_of(len(text), 'byte')}; at most {MAX_PATCH_BYTES} fit")
    patches = parse(text)
    if len(patches) > MAX_FILES:
        raise InvalidArgument(f"cannot read the patch: {count_of(len(patches), 'file')}; at most {MAX_FILES} fit")
    tree = _Tree(read)
    for patch in patches:
        _apply(patch, tree)
    return tree.operations()


@dataclass
class _File:
    content: bytes | None
    kind: FileKind = "file"
    mode: int | None = None
    origin: str | None = None


class _Tree:
    """The files as they are (`before`) and as the sections seen so far leave them (`now`)."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._before: dict[str, Present | None] = {}
        self._now: dict[str, _File] = {}

    def get(self, path: str) -> bytes | None:
        if path in self._now:
            return self._now[path].content
        before = self.before(path)
        return None if before is None else before.content

    def now(self, path: str) -> Present | None:
        """What the sections seen so far leave there."""
        content = self.get(path)
        return None if content is None else Present(content, self.kind(path), self._mode(path))

    def before(self, path: str) -> Present | None:
        """What stands there without the patch."""
        if path not in self._before:
            gone = any(above in self._now and self._now[above].content is None for above in _above(path))
            self._before[path] = None if gone else self._read(path)
        return self._before[path]

    def kind(self, path: str) -> FileKind:
        """Of what `get` gives."""
        if path in self._now:
            return self._now[path].kind
        before = self.before(path)
        return "file" if before is None else before.kind

    def _mode(self, path: str) -> int:
        known = self._now.get(path)
        if known is not None and known.mode is not None:
            return known.mode
        before = self.before(self.origin(path))
        return 0o644 if before is None else before.git_mode

    def put(
        self,
        path: str,
        content: bytes | None,
        mode: int | None = None,
        origin: str | None = None,
        kind: FileKind = "file",
    ) -> None:
        self.get(path)
        known = self._now.get(path)
        if known is not None and known.content is not None:
            mode = known.mode if mode is None else mode
            origin = origin or (known.origin if content is not None else None)
        self._now[path] = _File(content, kind, mode, origin)

    def origin(self, path: str) -> str:
        known = self._now.get(path)
        return known.origin if known is not None and known.origin is not None else path

    def operations(self) -> list[PatchOperation]:
        self._refuse_nesting()
        renames = self._renames()
        moved = {path for path, _ in renames}
        deletes = [
            PatchOperation("delete", path, before_sha256=_digest(before))
            for path, before in self._before.items()
            if before is not None and path not in moved and (self.get(path) is None or self.kind(path) != before.kind)
        ]
        targets = {to for _, to in renames}
        changes = [self._change(path, file) for path, file in self._now.items() if path not in targets]
        moves = [step for names in renames for step in self._rename(*names)]
        return [*deletes, *moves, *(change for change in changes if change)]

    def _renames(self) -> list[tuple[str, str]]:
        """(from, to) of the files that can be moved as they are: nothing stood at the target, the source goes."""
        found: dict[str, str] = {}
        for path, file in self._now.items():
            if file.content is None or self._before[path] is not None or file.origin is None:
                continue
            before = self._before.get(file.origin)
            gone = before is not None and before.kind == file.kind and self.get(file.origin) is None
            if gone and file.origin not in found:
                found[file.origin] = path
        return list(found.items())

    def _rename(self, origin: str, path: str) -> Iterator[PatchOperation]:
        file, before = self._now[path], self._before[origin]
        assert before is not None
        yield PatchOperation("rename", origin, None, file.mode, path, _digest(before))
        if file.content != before.content:
            yield PatchOperation(_OPERATIONS[file.kind], path, file.content, before_sha256=_digest(before))

    def _change(self, path: str, file: _File) -> PatchOperation | None:
        before = self._before[path]
        if file.content is None:
            return None
        if before is None or before.kind != file.kind:
            return PatchOperation(_OPERATIONS[file.kind], path, file.content, file.mode)
        if file.content != before.content:
            return PatchOperation(_OPERATIONS[file.kind], path, file.content, file.mode, None, _digest(before))
        return None if file.mode is None else PatchOperation("mode", path, None, file.mode, None, _digest(before))

    def _refuse_nesting(self) -> None:
        live = {path for path, file in self._now.items() if file.content is not None}
        for path in live:
            for parent in _above(path):
                if parent in live:
                    cause = f"{show(parent)} is {_WORDS[self.kind(parent)]} in the same patch"
                    raise refused(path, cause, "Choose another name for one of them")


_OPERATIONS: dict[FileKind, Literal["write", "link"]] = {"file": "write", "symlink": "link"}


def _above(path: str) -> list[str]:
    """The directories that `path` lies in."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _apply(patch: FilePatch, tree: _Tree) -> None:
    if patch.binary:
        raise refused(
            patch.name,
            "binary changes cannot be patched",
            "Leave it out of the patch; <<push_workspace_sync>> takes a single file",
        )
    kind, mode = _mode(patch)
    old, new = paths(patch, lambda path: tree.get(path) is not None)
    if old is None:
        assert new is not None
        if tree.get(new) is not None:
            raise refused(new, "the patch makes a new file, but it exists", "Patch the file that is there")
        kind = kind or "file"
        tree.put(new, _content(new, kind, _made(new, patch.hunks)), mode, kind=kind)
        return
    if old == new and not (patch.hunks or patch.fields):
        raise refused(old, "no hunk follows its header", SHAPE)
    if new is not None and "copy_from" in patch.fields:
        _copy(patch, tree, old, new, kind, mode)
        return
    changed = _changed(patch, old, tree.now(old), kind)
    if new is None:
        if patch.hunks and changed:
            raise refused(old, "the patch deletes the file, but lines would be left", "Name all of its lines")
        tree.put(old, None)
        return
    kind = tree.kind(old)
    content = _content(new, kind, changed)
    if new == old:
        tree.put(old, content, mode, kind=kind)
    else:
        _move(tree, old, new, content, mode)


def _made(path: str, hunks: list[Hunk]) -> bytes:
    """The content of a new file, wherever its hunks say that they belong."""
    for hunk in hunks:
        if any(sign != b"+" for sign, _ in hunk.lines):
            cause = f"hunk {hunk.number} has lines without `+`, and the patch makes a new file"
            raise refused(path, cause, "Begin every line of a new file with `+`, empty ones too")
    return b"".join(line for hunk in hunks for line in hunk.side(b"+"))


def _changed(patch: FilePatch, old: str, present: Present | None, kind: FileKind | None) -> bytes:
    """What the hunks make of `old`, which must be of the `kind` that the patch says it is."""
    if present is None:
        hint = "List the files to find its name as seen from /workspace; a new file begins with `--- /dev/null`"
        raise refused(old, "no such file", hint)
    if kind is not None and kind != present.kind:
        hint = "Read what is there and make the patch for that"
        raise refused(old, f"it is {_WORDS[present.kind]}, and the patch means {_WORDS[kind]}", hint)
    try:
        return apply_hunks(show(old), present.content, patch.hunks)
    except InvalidArgument:
        if present.kind == "file" or kind == "symlink":
            raise
        cause = f"it is a symbolic link to {show(present.content)}, and the patch fits no link"
        raise refused(old, cause, "Patch the file that it leads to") from None


def _content(path: str, kind: FileKind, content: bytes) -> bytes:
    """What is stored: of a link, its text, behind which a line feed is only the patch's."""
    if kind == "file":
        return content
    target = content.removesuffix(b"\n")
    if not target or b"\0" in target or len(target) > MAX_TARGET:
        cause = f"a symbolic link needs a text of 1 to {MAX_TARGET} bytes without NUL"
        raise refused(path, cause, "Give the name that the link leads to as the only line")
    return target


def _copy(patch: FilePatch, tree: _Tree, old: str, new: str, kind: FileKind | None, mode: int | None) -> None:
    """Like git, copy what was there before the patch, whatever its other sections make of it."""
    source = tree.before(old) or tree.now(old)
    changed = _changed(patch, old, source, kind)
    assert source is not None
    _require_free(tree, new)
    keeps = source.kind == "file" and mode is None
    tree.put(new, _content(new, source.kind, changed), source.git_mode if keeps else mode, kind=source.kind)


def _require_free(tree: _Tree, path: str) -> None:
    if tree.get(path) is not None:
        hint = "Delete it first, or choose another name"
        raise refused(path, "the patch gives a file this name, but it exists", hint)


def _move(tree: _Tree, old: str, new: str, content: bytes, mode: int | None) -> None:
    _require_free(tree, new)
    kind, present = tree.kind(old), tree.now(old)
    origin = tree.origin(old)
    if mode is None and origin != old and kind == "file" and present is not None:
        mode = present.mode
    tree.put(old, None)
    tree.put(new, content, mode, origin, kind)


def _mode(patch: FilePatch) -> tuple[FileKind | None, int | None]:
    """What the patch says it is about, and the permissions it asks for. Submodules and the like are refused."""
    wanted = None
    kinds: set[FileKind] = set()
    for key in ("old_mode", "deleted_mode", "created_mode", "new_mode"):
        text = patch.fields.get(key)
        if text is None:
            continue
        if text == LINK_MODE:
            kinds.add("symlink")
            continue
        if len(text) != 6 or not text.startswith(b"100") or not text.isdigit():
            cause = f"mode {show(text)} is neither a file's nor a symbolic link's"
            raise refused(patch.name, cause, "Use 100644, 100755 or 120000; make anything else with a command")
        kinds.add("file")
        wanted = (0o755 if int(text, 8) & 0o100 else 0o644) if key in ("created_mode", "new_mode") else None
    if len(kinds) > 1:
        raise refused(patch.name, "a file becomes a link, or a link a file", "Delete the one and make the other")
    return next(iter(kinds), None), wanted


def _digest(present: Present | None) -> str | None:
    return None if present is None else sha256(present.content).hexdigest()
