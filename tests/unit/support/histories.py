"""A workspace in thought, and whether what two clients saw of a real one fits any order of what they did.

An operation is asked of the node by `ask`, and `after` says of what was seen which states it may have led to: none if
it cannot have been seen there. Histories fit when some interleaving of both programs leads from a state to another.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Call = Callable[..., dict[str, Any]]
Files = Mapping[str, str]
REF = "w"
DISTURBING = {"Stop", "Start", "Reset", "Delete"}
LOG = "log"
KILLED = 137


@dataclass(frozen=True)
class Seen:
    """What a client was answered: a value, or the code of a refusal."""

    value: Any = None
    refused: str | None = None


@dataclass(frozen=True)
class State:
    """What must be so. `commands` are those acknowledged since the last reset."""

    there: bool = True
    up: bool = True
    files: Files = field(default_factory=dict)
    snapshots: Mapping[str, Files] = field(default_factory=dict)
    resets: int = 0
    commands: tuple[str, ...] = ()

    def put(self, **files: str) -> State:
        return replace(self, files={**self.files, **files})


@dataclass(frozen=True)
class Op:
    """One operation. `rivals` are the kinds of operation that were under way at the same time."""

    rivals: frozenset[str] = frozenset()

    def ask(self, call: Call) -> Any:
        raise NotImplementedError

    def done(self, state: State) -> State | None:
        """Where success leads from a started workspace; None where it must be refused."""
        raise NotImplementedError

    def told(self, state: State) -> Any:
        """What the answer must say."""
        return None

    refusals = ("conflict",)
    """The codes of a refusal that the state explains."""

    def after(self, state: State, seen: Seen) -> Iterator[State]:
        if not state.there:
            if seen.refused == "not_found":
                yield state
            return
        expected = self.done(state) if self.possible(state) else None
        if seen.refused is None:
            if expected is not None and self.told(state) == seen.value:
                yield expected
            return
        disturbed = bool(self.rivals & DISTURBING) and seen.refused in ("conflict", "machine_failed")
        explained = expected is None and seen.refused in (self.refusals if self.possible(state) else ("conflict",))
        if disturbed or explained:
            yield state
        if disturbed and expected is not None and seen.refused == "machine_failed":
            yield expected

    def possible(self, state: State) -> bool:
        return state.up


@dataclass(frozen=True)
class Write(Op):
    path: str = "a"
    text: str = ""
    new: bool = False

    def ask(self, call: Call) -> Any:
        expected = {"expected_sha256": "absent"} if self.new else {}
        call("write_workspace_file", workspace_id=REF, path=self.path, text=self.text, **expected)

    def done(self, state: State) -> State | None:
        return None if self.new and self.path in state.files else state.put(**{self.path: self.text})


@dataclass(frozen=True)
class Read(Op):
    path: str = "a"
    refusals = ("not_found",)

    def ask(self, call: Call) -> Any:
        return call("read_workspace_file", workspace_id=REF, path=self.path)["content"]

    def done(self, state: State) -> State | None:
        return state if self.path in state.files else None

    def told(self, state: State) -> Any:
        return state.files[self.path]


@dataclass(frozen=True)
class Patch(Op):
    """Both files change, from what they were when the client looked."""

    refusals = ("conflict", "invalid_argument")
    old: tuple[str, str] = ("", "")
    new: tuple[str, str] = ("", "")

    def ask(self, call: Call) -> Any:
        pieces = [
            "".join(difflib.unified_diff([old], [new], f"a/{name}", f"b/{name}"))
            for name, old, new in zip("ab", self.old, self.new, strict=True)
        ]
        call("apply_workspace_patch", workspace_id=REF, patch="".join(pieces))

    def done(self, state: State) -> State | None:
        fits = (state.files.get("a"), state.files.get("b")) == self.old
        return state.put(a=self.new[0], b=self.new[1]) if fits else None


@dataclass(frozen=True)
class Append(Op):
    """A command that changes a file."""

    word: str = ""

    def ask(self, call: Call) -> Any:
        done = call("exec_workspace", workspace_id=REF, command=self.command)
        return done["exit_code"], done["stdout"]

    @property
    def command(self) -> str:
        return f"echo {self.word} >> {LOG}; echo said {self.word}"

    def done(self, state: State) -> State | None:
        return replace(state, files=self.changed(state), commands=(*state.commands, self.command))

    def changed(self, state: State) -> Files:
        return {**state.files, LOG: state.files.get(LOG, "") + f"{self.word}\n"}

    def told(self, state: State) -> Any:
        return 0, f"said {self.word}\n"

    def after(self, state: State, seen: Seen) -> Iterator[State]:
        if self.rivals & DISTURBING and (seen.refused == "machine_failed" or (seen.value and seen.value[0] == KILLED)):
            # It ended with its machine: how far it got is open, and nothing of it was acknowledged.
            yield state
            yield replace(state, files=self.changed(state))
        else:
            yield from super().after(state, seen)


@dataclass(frozen=True)
class Keep(Op):
    """A snapshot."""

    name: str = "s"

    def ask(self, call: Call) -> Any:
        call("create_snapshot", workspace_id=REF, snapshot_name=self.name)

    def done(self, state: State) -> State | None:
        if self.name in state.snapshots:
            return None
        return replace(state, snapshots={**state.snapshots, self.name: state.files})

    def possible(self, state: State) -> bool:
        return state.up


@dataclass(frozen=True)
class Drop(Op):
    name: str = "s"
    refusals = ("not_found",)

    def ask(self, call: Call) -> Any:
        call("delete_snapshot", workspace_id=REF, snapshot_name=self.name)

    def done(self, state: State) -> State | None:
        if self.name not in state.snapshots:
            return None
        return replace(state, snapshots={name: kept for name, kept in state.snapshots.items() if name != self.name})

    def possible(self, state: State) -> bool:
        return True


@dataclass(frozen=True)
class Reset(Op):
    name: str = "s"
    refusals = ("not_found",)

    def ask(self, call: Call) -> Any:
        return call("reset_workspace", workspace_id=REF, snapshot=self.name)["reset_count"]

    def done(self, state: State) -> State | None:
        if self.name not in state.snapshots:
            return None
        files = state.snapshots[self.name]
        return replace(state, up=True, files=files, resets=state.resets + 1, commands=())

    def told(self, state: State) -> Any:
        return state.resets + 1

    def possible(self, state: State) -> bool:
        return True


@dataclass(frozen=True)
class Stop(Op):
    def ask(self, call: Call) -> Any:
        return call("stop_workspace", workspace_id=REF)["state"]

    def done(self, state: State) -> State | None:
        return replace(state, up=False)

    def told(self, state: State) -> Any:
        return "stopped"

    def possible(self, state: State) -> bool:
        return True


@dataclass(frozen=True)
class Start(Op):
    def ask(self, call: Call) -> Any:
        return call("start_workspace", workspace_id=REF)["state"]

    def done(self, state: State) -> State | None:
        return replace(state, up=True)

    def told(self, state: State) -> Any:
        return "started"

    def possible(self, state: State) -> bool:
        return True


@dataclass(frozen=True)
class Delete(Op):
    def ask(self, call: Call) -> Any:
        return call("delete_workspace", workspace_id=REF)["deleted"]

    def done(self, state: State) -> State | None:
        return State(there=False)

    def told(self, state: State) -> Any:
        return True

    def possible(self, state: State) -> bool:
        return True


Program = tuple[tuple[Op, Seen], ...]


def orders(states: Iterable[State], left: Program, right: Program) -> list[State]:
    """Every state to which some interleaving of what both saw leads from one of `states`."""
    found: list[State] = []
    for state in states:
        if not left and not right:
            found.append(state)
        for first, other, swapped in ((left, right, False), (right, left, True)):
            if first:
                (op, seen), rest = first[0], first[1:]
                following = list(op.after(state, seen))
                found += orders(following, *((other, rest) if swapped else (rest, other)))
    return [state for number, state in enumerate(found) if state not in found[:number]]
