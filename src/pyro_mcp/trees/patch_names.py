"""Which file a section of a patch is about: before and after it."""

from __future__ import annotations

from collections.abc import Callable

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.trees.names import patchable, show, unquote
from pyro_mcp.trees.patch_text import DEV_NULL, PREFIXES, SHAPE, FilePatch, git_names, is_epoch

Exists = Callable[[str], bool]
"""Whether a file or a link is at a path below /workspace."""
ONE_NAME = "Name one file in all header lines of a section; to rename it, write `rename from OLD` and `rename to NEW`"


def paths(patch: FilePatch, exists: Exists) -> tuple[str | None, str | None]:
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
        raise refused(patch.name, "the header does not say which file is meant", SHAPE)
    created = old == DEV_NULL or "created_mode" in patch.fields or _created_plainly(patch)
    deleted = new == DEV_NULL or "deleted_mode" in patch.fields or _deleted_plainly(patch)
    if created and deleted:
        hint = "`--- /dev/null` makes a file, `+++ /dev/null` deletes one: use one of them"
        raise refused(patch.name, "the patch makes and deletes the file at once", hint)
    if names is not None:
        given = {_tail(name) for name in (old, new) if name != DEV_NULL}
        if not given <= {_tail(name) for name in names}:
            raise refused(patch.name, "its header lines name different files", ONE_NAME)
    if created:
        return None, _candidates(new)[0]
    if deleted:
        return _existing(_candidates(old), exists), None
    target = _target(patch, old, new, exists)
    if not exists(target) and patch.git is None and patch.hunks[:1] and patch.hunks[0].start == 0:
        return None, target
    return target, target


def _moved(patch: FilePatch, source: bytes | None, target: bytes | None) -> tuple[str, str]:
    if source is None or target is None:
        raise refused(patch.name, "a rename or copy needs both names", ONE_NAME)
    old, new = (patchable(unquote(name) if name.startswith(b'"') else name) for name in (source, target))
    for given, path in ((patch.old, old), (patch.new, new)):
        if given is not None and path not in _candidates(given):
            raise refused(patch.name, "its header lines name different files", ONE_NAME)
    if old == new:
        raise refused(patch.name, "a rename to the same name", "Leave the rename out, or give the new name")
    return old, new


def _target(patch: FilePatch, old: bytes, new: bytes, exists: Exists) -> str:
    olds, news = _candidates(old), _candidates(new)
    common = [path for path in news if path in olds]
    if old == new:
        common.reverse()
    if common:
        return _existing(common, exists) if old != new else _existing(common, exists, otherwise=-1)
    if patch.git is None:
        # `diff file.orig file` and `diff file file.new`.
        for paths, other in ((news, olds), (olds, news)):
            for path in paths:
                if other[0].startswith(path) and exists(path):
                    return path
    raise refused(patch.name, f"its header lines name two files, {show(olds[0])} and {show(news[0])}", ONE_NAME)


def _existing(paths: list[str], exists: Exists, otherwise: int = 0) -> str:
    return next((path for path in paths if exists(path)), paths[otherwise])


def _candidates(name: bytes) -> list[str]:
    """The paths that `name` may mean: without the one-letter directory that git puts in front, and as it is."""
    if name == DEV_NULL:
        raise InvalidArgument("cannot apply the patch: it names no file but /dev/null", hint=SHAPE)
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


def refused(name: str | bytes, cause: str, hint: str) -> InvalidArgument:
    """What to raise about the file `name`."""
    return InvalidArgument(f"cannot apply the patch to {show(name)}: {cause}", hint=hint)
