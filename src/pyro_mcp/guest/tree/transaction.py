"""transaction: several changes of names that all happen or none, whenever the agent, the machine or its disk fails.

The list of steps is written into the staging directory and is on disk before the first step (intent); each step keeps
what it replaces in a backup. After the last step, `intent` is renamed to `done`. Recovery rolls an intent back, from
the last step to the first; without an intent it only removes what is staged. What is on disk shows which steps have
happened, so a rollback that is cut short can start again.

Order is all that a guest's disk must keep: ext4 commits changes of names in the order in which they were made.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable
from typing import Any, NamedTuple

from pyro_mcp.guest.errors import AgentError, cause
from pyro_mcp.guest.tree.paths import ResolvedPath, Tree, absolute, failure, show
from pyro_mcp.guest.tree.stage import Stage, listing, remove
from pyro_mcp.protocol.entries import STAGE_PREFIX
from pyro_mcp.protocol.frames import encode_json

INTENT, DRAFT, DONE = b"intent", b"draft", b"done"
IN_DOUBT = "the new content is there, but the disk may lose it"
MAX_INTENT = 256 * 1024 * 1024
_VERBS = {"make": "make", "put": "write", "swap": "write", "take": "delete", "mode": "change", "drop": "remove"}


class Step(NamedTuple):
    """One change at `path`, a canonical path below the root. `staged` and `backup` are paths below the stage.

    `make`: a directory. `put`: what is staged goes where nothing is. `swap`: it replaces what is there, kept as backup.
    `take`: what is there goes, kept as backup. `mode`: permissions from `before` to `after`. `drop`: an empty directory
    goes, whose mode was `before`. `seen` is what `look` said when the step was planned.
    """

    kind: str
    path: bytes
    staged: bytes = b""
    backup: bytes = b""
    before: int = 0
    after: int = 0
    uid: int = 0
    gid: int = 0
    seen: tuple[int, ...] = ()


def look(target: ResolvedPath) -> tuple[int, ...]:
    """What changes when somebody else changes the file."""
    status = target.stat()
    return (stat.S_IFMT(status.st_mode), status.st_size, status.st_mtime_ns)


def commit(tree: Tree, stage: Stage, steps: list[Step]) -> None:
    """Do all `steps`, or none and raise `AgentError`; afterwards they are durable."""
    if not steps:
        return
    if len(steps) == 1:
        _alone(tree, stage, steps[0])
        return
    _declare(stage, steps)
    try:
        for step in steps:
            _do(tree, stage, step)
        os.rename(INTENT, DONE, src_dir_fd=stage.fd, dst_dir_fd=stage.fd)
        stage.flush()
    except BaseException as error:
        _rollback(tree, stage, steps)
        if isinstance(error, OSError):
            raise failure("apply changes in", absolute([]), error) from None
        raise


def _alone(tree: Tree, stage: Stage, step: Step) -> None:
    """One step is whole by itself and needs no intent."""
    _prepare(tree, stage, step)
    _do(tree, stage, step)
    try:
        stage.flush()
    except OSError as error:
        try:
            _undo(tree, stage, step)
        except OSError:
            raise AgentError("internal", f"cannot apply changes in /workspace: {cause(error)}: {IN_DOUBT}") from None
        raise


def _prepare(tree: Tree, stage: Stage, step: Step) -> None:
    """What is staged for the only step must be on disk before it gets its name."""
    if not step.staged:
        return
    with stage.find(step.staged) as staged:
        if not staged.is_file():
            stage.flush()
            return
        fd = staged.open(os.O_RDONLY)
        try:
            tree.disk.data(fd)
        finally:
            os.close(fd)


def _declare(stage: Stage, steps: list[Step]) -> None:
    """Write the intent. It gets its name when all that was staged, and the list itself, is on disk."""
    stage.write(DRAFT, [encode_json({"steps": [_to_wire(step) for step in steps]})])
    stage.flush()
    os.rename(DRAFT, INTENT, src_dir_fd=stage.fd, dst_dir_fd=stage.fd)


def _do(tree: Tree, stage: Stage, step: Step) -> None:
    parts = step.path.split(b"/")
    try:
        with tree.find(parts, links=False) as target:
            if target.exists == (step.kind in ("make", "put")) or (step.seen and look(target) != step.seen):
                hint = "Someone else changed it. Read it again, then decide."
                verb = _VERBS[step.kind]
                raise AgentError("conflict", f"cannot {verb} {show(target.path)}: it changed meanwhile", hint)
            _DO[step.kind](stage, step, target)
    except OSError as error:
        raise failure(_VERBS[step.kind], absolute(parts), error) from None


def _make(stage: Stage, step: Step, target: ResolvedPath) -> None:
    os.mkdir(target.name, 0o755, dir_fd=target.parent)


def _put(stage: Stage, step: Step, target: ResolvedPath) -> None:
    with stage.find(step.staged) as staged:
        os.rename(staged.name, target.name, src_dir_fd=staged.parent, dst_dir_fd=target.parent)


def _swap(stage: Stage, step: Step, target: ResolvedPath) -> None:
    """The old one is held by a second name first, so that its own is never missing."""
    os.link(target.name, step.backup, src_dir_fd=target.parent, dst_dir_fd=stage.fd, follow_symlinks=False)
    _put(stage, step, target)


def _take(stage: Stage, step: Step, target: ResolvedPath) -> None:
    os.rename(target.name, step.backup, src_dir_fd=target.parent, dst_dir_fd=stage.fd)


def _mode(stage: Stage, step: Step, target: ResolvedPath) -> None:
    os.chmod(f"/proc/self/fd/{target.fd}", step.after)


def _drop(stage: Stage, step: Step, target: ResolvedPath) -> None:
    os.rmdir(target.name, dir_fd=target.parent)


_DO = {"make": _make, "put": _put, "swap": _swap, "take": _take, "mode": _mode, "drop": _drop}


# -- rollback


def _rollback(tree: Tree, stage: Stage, steps: list[Step]) -> None:
    """Roll the steps back now or, if that fails too, leave their intent for later."""
    if _has(stage.fd, DONE) and not _revoke(stage):
        # All steps have happened, and this disk takes no revocation any more.
        raise AgentError("internal", f"cannot apply changes in /workspace: {IN_DOUBT}")
    try:
        _undo_all(tree, stage, steps)
    except OSError as error:
        stage.keep = True
        tree.unfinished.add(stage.name)
        hint = "It is tried again before the next change, and when the workspace starts."
        raise AgentError("internal", f"cannot take back a change that failed: {cause(error)}", hint) from None


def _revoke(stage: Stage) -> bool:
    try:
        os.rename(DONE, INTENT, src_dir_fd=stage.fd, dst_dir_fd=stage.fd)
    except OSError:
        return False
    return True


def _undo_all(tree: Tree, stage: Stage, steps: Iterable[Step]) -> None:
    for step in reversed(list(steps)):
        _undo(tree, stage, step)
    stage.flush()
    try:
        os.unlink(INTENT, dir_fd=stage.fd)
    except FileNotFoundError:
        pass


def _undo(tree: Tree, stage: Stage, step: Step) -> None:
    """Undo `step` if it has happened. What somebody else has removed meanwhile stays removed."""
    try:
        with tree.find(step.path.split(b"/"), links=False) as target:
            _UNDO[step.kind](stage, step, target)
    except OSError as error:
        # A link may stand on the way by now, too: whose ever it is, it is not followed.
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EISDIR, errno.ELOOP):
            raise


def _unmake(stage: Stage, step: Step, target: ResolvedPath) -> None:
    os.rmdir(target.name, dir_fd=target.parent)


def _unput(stage: Stage, step: Step, target: ResolvedPath) -> None:
    with stage.find(step.staged) as staged:
        if not staged.exists and target.exists:
            os.rename(target.name, staged.name, src_dir_fd=target.parent, dst_dir_fd=staged.parent)


def _restore(stage: Stage, step: Step, target: ResolvedPath) -> None:
    if not _has(stage.fd, step.backup):
        return
    os.rename(step.backup, target.name, src_dir_fd=stage.fd, dst_dir_fd=target.parent)
    if _has(stage.fd, step.backup):
        # Two names of one file: rename(2) leaves both.
        os.unlink(step.backup, dir_fd=stage.fd)


def _unmode(stage: Stage, step: Step, target: ResolvedPath) -> None:
    if target.is_file():
        os.chmod(f"/proc/self/fd/{target.fd}", step.before)


def _undrop(stage: Stage, step: Step, target: ResolvedPath) -> None:
    if not target.exists:
        os.mkdir(target.name, 0o700, dir_fd=target.parent)
    with stage.tree.find(step.path.split(b"/"), links=False) as again:
        if again.is_directory():
            own = f"/proc/self/fd/{again.fd}"
            if os.geteuid() == 0:
                os.chown(own, step.uid, step.gid)
            os.chmod(own, step.before)


_UNDO = {"make": _unmake, "put": _unput, "swap": _restore, "take": _restore, "mode": _unmode, "drop": _undrop}


def _has(parent: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


# -- after a crash


def recover(tree: Tree) -> None:
    """Roll back what an agent that died left half done, and remove what it had staged. Before any other use of `tree`.

    What cannot be rolled back yet, the disk being full, is kept, and `retry_rollback` tries again.
    """
    root = tree.open_root()
    try:
        for name in listing(root):
            if not name.startswith(STAGE_PREFIX):
                continue
            if stat.S_ISDIR(os.stat(name, dir_fd=root, follow_symlinks=False).st_mode) and _recover(tree, name):
                tree.unfinished.add(name)
            else:
                remove(root, name)
    finally:
        os.close(root)


def retry_rollback(tree: Tree) -> None:
    """Before the next change: retry every rollback that failed. Raises `AgentError` while one still fails."""
    for name in sorted(tree.unfinished):
        error = _recover(tree, name)
        if error is not None:
            raise failure("take back an earlier change in", absolute([]), error) from None
        tree.unfinished.discard(name)
        root = tree.open_root()
        try:
            remove(root, name)
        finally:
            os.close(root)


def _recover(tree: Tree, name: bytes) -> OSError | None:
    """Roll back the stage `name`; the error that prevented it, if any."""
    try:
        stage = Stage.reopen(tree, name)
    except OSError:
        return None  # No directory that could be entered: nothing of ours.
    with stage:
        stage.keep = True
        try:
            _undo_all(tree, stage, _read_intent(stage))
        except OSError as error:
            return error
    return None


def _read_intent(stage: Stage) -> list[Step]:
    """The steps; none when there is no intent, or when somebody has spoilt it."""
    try:
        fd = os.open(INTENT, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=stage.fd)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO):
            return []
        raise
    with open(fd, "rb") as file:
        data = file.read(MAX_INTENT)
    try:
        return [_from_wire(value) for value in json.loads(data)["steps"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def _to_wire(step: Step) -> list[Any]:
    return [os.fsdecode(value) if isinstance(value, bytes) else value for value in step[:-1]]


def _from_wire(value: Any) -> Step:
    """A step as it was written. Raises `ValueError` or `TypeError` for what none of ours wrote."""
    kind, path, staged, backup, *numbers = value
    if kind not in _UNDO or len(numbers) != 4 or not all(type(number) is int for number in numbers):
        raise ValueError("no step")
    target, new, old = _plain(path), _plain(staged) if staged else b"", _plain(backup) if backup else b""
    if target.startswith(STAGE_PREFIX) or b"/" in old:
        raise ValueError("no place of a step")
    return Step(kind, target, new, old, *numbers)


def _plain(name: Any) -> bytes:
    raw = os.fsencode(name)
    if b"\0" in raw or {b"", b".", b".."} & set(raw.split(b"/")):
        raise ValueError("no plain path")
    return raw
