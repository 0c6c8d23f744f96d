"""The verb `patch apply`: read what the patch touches, plan, and commit everything in one request.

Every step says what it expects to find, so what somebody else changed in between is a conflict and never lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pyro_mcp.engine.files.files import Collected, ReadAnswer
from pyro_mcp.engine.session import Session
from pyro_mcp.errors import InvalidArgument, NotFound
from pyro_mcp.model.count import count_of
from pyro_mcp.model.patch import PatchEntry, PatchResult, PatchSummary
from pyro_mcp.operations.call import Call
from pyro_mcp.trees.patch import PatchOperation, Present, plan, statuses

MAX_FILE = 32 * 1024 * 1024
MAX_TOTAL = 256 * 1024 * 1024
"""Bytes that one patch may make the node hold: the files it touches, before it is applied."""


@dataclass(frozen=True)
class _Applied:
    """The agent's answer; that it came is all that is needed of it."""


def apply_patch(call: Call[Any], session: Session, patch: str) -> PatchResult:
    """Apply `patch` as a whole. Raises `InvalidArgument` naming file and hunk, or `Conflict`; nothing changes."""
    call.progress("reading what the patch touches", None)
    steps = plan(patch, _PatchedFiles(call, session).read)
    if steps:
        call.progress("applying the patch", None)
        params = {"operations": [_wire(step) for step in steps]}
        session.agent.request(call, "tree_apply", params, _Applied, send=_contents(steps))
    found = statuses(steps)
    count = Counter(found.values())
    summary = PatchSummary(total=len(found), added=count["added"], modified=count["modified"], deleted=count["deleted"])
    if steps:
        session.note("patch_apply", {"total": summary.total, "paths": list(found)[:20]})
    return PatchResult(
        **session.stamp,
        changed=bool(steps),
        summary=summary,
        entries=[PatchEntry(path=path, status=status) for path, status in found.items()],
        patch=patch,
    )


class _PatchedFiles:
    """Reads whole files of the workspace, bounded together."""

    def __init__(self, call: Call[Any], session: Session) -> None:
        self._call = call
        self._session = session
        self._left = MAX_TOTAL

    def read(self, path: str) -> Present | None:
        """The file, or the link; None when there is none."""
        limit = min(MAX_FILE, self._left)
        held = Collected(limit)
        params = {"path": path, "max_bytes": limit, "links": False}
        try:
            said = self._session.agent.request(self._call, "file_read", params, ReadAnswer, on_data=held.add)
        except NotFound:
            return None
        if said.truncated:
            raise InvalidArgument(
                f"cannot apply the patch to {path}: it has {count_of(said.size_bytes, 'byte')}; at most {MAX_FILE}"
                f" per file and {MAX_TOTAL} together can be patched",
                hint="Change it with a command inside the workspace.",
            )
        self._left -= len(held.data)
        if said.artifact_type == "directory":
            return None
        kind: Literal["file", "symlink"] = "symlink" if said.artifact_type == "symlink" else "file"
        return Present(bytes(held.data), kind, said.mode)


def _wire(step: PatchOperation) -> dict[str, Any]:
    value: dict[str, Any] = {"op": step.kind, "path": step.path, "expected_sha256": step.before_sha256}
    if step.kind == "link":
        value["target"] = (step.content or b"").decode("utf-8", "surrogateescape")
    elif step.content is not None:
        value["size"] = len(step.content)
    if step.mode is not None:
        value["mode"] = step.mode & 0o777
    if step.to is not None:
        value["to"] = step.to
    return value


def _contents(steps: list[PatchOperation]) -> Iterator[bytes]:
    return (step.content for step in steps if step.content and step.kind == "write")
