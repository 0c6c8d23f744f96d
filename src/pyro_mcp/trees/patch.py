"""A patch becomes a list of operations on files, all or nothing; nothing is changed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.trees.hunks import apply_hunks
from pyro_mcp.trees.names import patchable, show, unquote
from pyro_mcp.trees.patch_text import DEV_NULL, PREFIXES, FilePatch, git_names, is_epoch, parse

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
        raise InvalidArgument(f"cannot read the patch: {len(text)} bytes; at most {MAX_PATCH_BYTES} fit")
    patches = parse(text)
    if len(patches) > MAX_FILES:
        raise InvalidArgument(f"cannot read the patch: {len(patches)} files; at most {MAX_FILES} fit")
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
        before = self._found(path)
        return None if before is None else before.content

    def _found(self, path: str) -> Present | None:
        if path not in self._before:
            gone = any(above in self._now and self._now[above].content is None for above in _above(path))
            self._before[path] = None if gone else self._read(path)
        return self._before[path]

    def kind(self, path: str) -> FileKind:
        """Of what `get` gives."""
        if path in self._now:
            return self._now[path].kind
        before = self._found(path)
        return "file" if before is None else before.kind

    def mode(self, path: str) -> int:
        """0755 or 0644, as git knows them."""
        known = self._now.get(path)
        if known is not None and known.mode is not None:
            return known.mode
        before = self._found(self.origin(path))
        return 0o755 if before is not None and before.mode & 0o100 else 0o644

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
                    raise _refused(path, f"{show(parent)} is {_WORDS[self.kind(parent)]} in the same patch")


_OPERATIONS: dict[FileKind, Literal["write", "link"]] = {"file": "write", "symlink": "link"}


def _above(path: str) -> list[str]:
    """The directories that `path` lies in."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _apply(patch: FilePatch, tree: _Tree) -> None:
    if patch.binary:
        raise _refused(patch.name, "binary changes cannot be patched", "Write the whole file instead")
    kind, mode = _mode(patch)
    old, new = _names(patch, tree)
    if old is None:
        assert new is not None
        if tree.get(new) is not None:
            raise _refused(new, "the patch makes a new file, but it exists", "Patch the file that is there")
        kind = kind or "file"
        tree.put(new, _content(new, kind, apply_hunks(show(new), b"", patch.hunks)), mode, kind=kind)
        return
    changed = _changed(patch, tree, old, kind)
    if new is None:
        if patch.hunks and changed:
            raise _refused(old, "the patch deletes the file, but lines would be left", "Name all of its lines")
        tree.put(old, None)
        return
    kind = tree.kind(old)
    content = _content(new, kind, changed)
    if new == old:
        tree.put(old, content, mode, kind=kind)
    else:
        _move(patch, tree, old, new, content, mode)


def _changed(patch: FilePatch, tree: _Tree, old: str, kind: FileKind | None) -> bytes:
    """What the hunks make of `old`, which must be of the `kind` that the patch says it is."""
    content = tree.get(old)
    if content is None:
        raise _refused(old, "no such file", "List the files of the workspace to find the right name")
    present = tree.kind(old)
    if kind is not None and kind != present:
        raise _refused(old, f"it is {_WORDS[present]}, and the patch means {_WORDS[kind]}")
    try:
        return apply_hunks(show(old), content, patch.hunks)
    except InvalidArgument:
        if present == "file" or kind == "symlink":
            raise
        cause = f"it is a symbolic link to {show(content)}, and the patch fits no link"
        raise _refused(old, cause, "Patch the file that it leads to") from None


def _content(path: str, kind: FileKind, content: bytes) -> bytes:
    """What is stored: of a link, its text, behind which a line feed is only the patch's."""
    if kind == "file":
        return content
    target = content.removesuffix(b"\n")
    if not target or b"\0" in target or len(target) > MAX_TARGET:
        raise _refused(path, f"a symbolic link needs a text of 1 to {MAX_TARGET} bytes without NUL")
    return target


def _move(patch: FilePatch, tree: _Tree, old: str, new: str, content: bytes, mode: int | None) -> None:
    if tree.get(new) is not None:
        raise _refused(new, "the patch renames a file to this name, but it exists")
    kind = tree.kind(old)
    if "copy_from" in patch.fields:
        tree.put(new, content, mode or (tree.mode(old) if kind == "file" else None), kind=kind)
        return
    origin = tree.origin(old)
    mode = tree.mode(old) if mode is None and origin != old and kind == "file" else mode
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
            raise _refused(patch.name, f"mode {show(text)} is neither a file's nor a symbolic link's")
        kinds.add("file")
        wanted = (0o755 if int(text, 8) & 0o100 else 0o644) if key in ("created_mode", "new_mode") else None
    if len(kinds) > 1:
        raise _refused(patch.name, "a file becomes a link, or a link a file", "Delete the one and make the other")
    return next(iter(kinds), None), wanted


def _names(patch: FilePatch, tree: _Tree) -> tuple[str | None, str | None]:
    """The path before and after; None: there is none. Names must agree wherever the patch gives them twice."""
    for source, target in (("rename_from", "rename_to"), ("copy_from", "copy_to")):
        if source in patch.fields or target in patch.fields:
            return _moved(patch, patch.fields.get(source), patch.fields.get(target))
    names = git_names(patch.git) if patch.git is not None else None
    if patch.old is not None and patch.new is not None:
        old, new = patch.old, patch.new
    elif names is not None:
        old, new = names
    else:
        raise _refused(patch.name, "the header does not say which file is meant")
    created = old == DEV_NULL or "created_mode" in patch.fields or _created_plainly(patch)
    deleted = new == DEV_NULL or "deleted_mode" in patch.fields or _deleted_plainly(patch)
    if created and deleted:
        raise _refused(patch.name, "the patch makes and deletes the file at once")
    if names is not None:
        given = {_tail(name) for name in (old, new) if name != DEV_NULL}
        if not given <= {_tail(name) for name in names}:
            raise _refused(patch.name, "its header lines name different files")
    if created:
        return None, _candidates(new)[0]
    if deleted:
        return _existing(_candidates(old), tree), None
    target = _target(patch, old, new, tree)
    if tree.get(target) is None and patch.git is None and patch.hunks[:1] and patch.hunks[0].start == 0:
        return None, target
    return target, target


def _moved(patch: FilePatch, source: bytes | None, target: bytes | None) -> tuple[str, str]:
    if source is None or target is None:
        raise _refused(patch.name, "a rename or copy needs both names")
    old, new = (patchable(unquote(name) if name.startswith(b'"') else name) for name in (source, target))
    for given, path in ((patch.old, old), (patch.new, new)):
        if given is not None and path not in _candidates(given):
            raise _refused(patch.name, "its header lines name different files")
    if old == new:
        raise _refused(patch.name, "a rename to the same name")
    return old, new


def _target(patch: FilePatch, old: bytes, new: bytes, tree: _Tree) -> str:
    olds, news = _candidates(old), _candidates(new)
    common = [path for path in news if path in olds]
    if old == new:
        common.reverse()
    if common:
        return _existing(common, tree) if old != new else _existing(common, tree, otherwise=-1)
    if patch.git is None:
        # `diff file.orig file` and `diff file file.new`.
        for paths, other in ((news, olds), (olds, news)):
            for path in paths:
                if other[0].startswith(path) and tree.get(path) is not None:
                    return path
    raise _refused(patch.name, f"its header lines name two files, {show(olds[0])} and {show(news[0])}")


def _existing(paths: list[str], tree: _Tree, otherwise: int = 0) -> str:
    return next((path for path in paths if tree.get(path) is not None), paths[otherwise])


def _candidates(name: bytes) -> list[str]:
    """The paths that `name` may mean: without the one-letter directory that git puts in front, and as it is."""
    if name == DEV_NULL:
        raise InvalidArgument("cannot apply the patch: it names no file but /dev/null")
    if len(name) > 2 and name[0] in PREFIXES and name[1:2] == b"/":
        stripped = patchable(name[2:])
        return [stripped] if name[2:3] == b"/" else [stripped, patchable(name)]
    return [patchable(name)]


def _tail(name: bytes) -> bytes:
    return name if name == DEV_NULL else _candidates(name)[0].encode("utf-8", "surrogateescape")


def _created_plainly(patch: FilePatch) -> bool:
    return patch.git is None and is_epoch(patch.old_stamp) and patch.hunks[:1] != [] and patch.hunks[0].start == 0


def _deleted_plainly(patch: FilePatch) -> bool:
    signs = {sign for hunk in patch.hunks for sign, _ in hunk.lines}
    return patch.git is None and is_epoch(patch.new_stamp) and signs == {b"-"}


def _digest(present: Present | None) -> str | None:
    return None if present is None else sha256(present.content).hexdigest()


def _refused(name: str, cause: str, hint: str | None = None) -> InvalidArgument:
    return InvalidArgument(f"cannot apply the patch to {show(name)}: {cause}", hint=hint)
