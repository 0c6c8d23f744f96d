"""apply: several changes to files as one: all of them happen, or none, whatever ends the agent meanwhile.

New content is staged first, then the operations are planned, and their steps committed (`steps`).
"""

from __future__ import annotations

import os
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.errors import invalid
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.tree.changeset import ChangePlan
from pyro_mcp.guest.tree.files import digesting, optional_mode
from pyro_mcp.guest.tree.paths import Tree, absolute, failure, relative
from pyro_mcp.guest.tree.precondition import precondition
from pyro_mcp.guest.tree.stage import Stage
from pyro_mcp.guest.tree.transaction import commit, retry_rollback
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.digest import sha256
from pyro_mcp.protocol.entries import MAX_SIZE

MAX_OPERATIONS = 10_000
MAX_TARGET = 4095
"""Bytes of a link's text: what Linux takes."""
_FIELDS = {"op", "path", "to", "target", "mode", "size", "expected_sha256"}
_OPS = ("write", "link", "delete", "mode", "rename")


class ChangeOperation:
    """One checked change."""

    def __init__(self, value: Any, index: int) -> None:
        name = f"operations[{index}]"
        if not isinstance(value, dict) or not value.keys() <= _FIELDS:
            raise invalid(f"{name} must be an object with {', '.join(sorted(_FIELDS))}")
        self.op = value.get("op")
        if self.op not in _OPS:
            raise invalid(f"{name}.op must be one of {', '.join(_OPS)}")
        self.parts = _path(self.op, f"{name}.path", value.get("path"))
        self.to = _path(self.op, f"{name}.to", value.get("to")) if self.op == "rename" else ()
        self.mode = optional_mode(value)
        self.size = read.integer(value, "size", min_=0, max_=MAX_SIZE) if self.op == "write" else 0
        self.target = b""
        if self.op == "link":
            self.target = read.to_bytes(f"{name}.target", value.get("target"), limit=MAX_TARGET)
            if not self.target:
                raise invalid(f"{name}.target is empty")
        self.expected = precondition(value)
        self.staged = b"n%d" % index
        self.digest = ""
        if self.op == "mode" and self.mode is None:
            raise invalid(f"{name}.mode is missing")

    def stage(self, stage: Stage, flow: Flow) -> None:
        """Make what is new."""
        digest = sha256()
        if self.op == "write":
            stage.write(self.staged, digesting(flow.take(self.size), digest))
        elif self.op == "link":
            os.symlink(self.target, self.staged, dir_fd=stage.fd)
            digest.update(self.target)
        self.digest = digest.hexdigest()

    def plan(self, plan: ChangePlan) -> None:
        """Add this to what is planned."""
        try:
            if self.op == "write":
                plan.write(self.parts, self.staged, self.digest, self.mode, self.expected)
            elif self.op == "link":
                plan.link(self.parts, self.staged, self.digest, self.expected)
            elif self.op == "delete":
                plan.delete(self.parts, self.expected)
            elif self.op == "mode":
                assert self.mode is not None
                plan.mode(self.parts, self.mode, self.expected)
            else:
                plan.rename(self.parts, self.to, self.mode, self.expected)
        except OSError as error:
            raise failure(str(self.op), absolute([*self.parts]), error) from None

    def entry(self) -> dict[str, Any]:
        """What the answer says of it."""
        entry = {"path": os.fsdecode(absolute([*self.parts])), "op": self.op}
        if self.op in ("write", "link"):
            entry["sha256"] = self.digest
        return entry


def _path(verb: str, name: str, value: Any) -> tuple[bytes, ...]:
    parts = relative(verb, value, name)
    if not parts:
        raise invalid(f"cannot {verb} /workspace: it is the workspace itself")
    return tuple(parts)


def tree_apply(tree: Tree, stream: Stream) -> dict[str, Any]:
    """operations[{op: write|link|delete|mode|rename, path, to?, target?, mode?, size?, expected_sha256?}] ← the
    contents of all writes in order as DATA 0 → entries[{path, op, sha256?}].

    `write` replaces a file and `link` a symbolic link, whose digest is that of its target. `rename` needs a free `to`;
    parents are made, and those left empty removed. On failure nothing has changed; the error names the operation.
    """
    values = stream.params.get("operations")
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_OPERATIONS:
        raise invalid(f"operations must be a list of 1 to {MAX_OPERATIONS}")
    operations = [ChangeOperation(value, index) for index, value in enumerate(values)]
    flow = Flow(stream)
    try:
        with Stage(tree) as stage:
            for operation in operations:
                operation.stage(stage, flow)
            flow.require_end()
            with tree.lock(flow.check):
                retry_rollback(tree)
                plan = ChangePlan(tree, stage)
                for operation in operations:
                    flow.check()
                    operation.plan(plan)
                commit(tree, stage, plan.steps())
        return {"entries": [operation.entry() for operation in operations]}
    except OSError as error:
        raise failure("apply changes in", absolute([]), error) from None
    finally:
        flow.close()
