"""Operation: a public verb, declared once and read by every surface.

    @operation(tool="vm_run", cli=("run",), effects=Effects())
    def run_in_vm(call: Call, environment: EnvironmentName, *, command: Command, ...) -> RunResult: ...

The function's name is the verb on the wire and the SDK method, its signature the parameters, its docstring the help.
The node calls `answer`; a client calls `request` and `result`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.operations.call import Call
from pyro_mcp.operations.fields import Field, fields_of, return_type
from pyro_mcp.operations.inputs import as_bytes

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Effects:
    """What a verb does to the world outside a throw-away guest; decides how chat hosts ask for approval."""

    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False


@dataclass(frozen=True)
class Operation(Generic[P, R]):
    """A verb. `local` ones run in the caller's process, the others in the node; `title` is the tool's.

    `id_field` is the part of the answer that a script wants when it wants only one, `text_field` a part that is a text
    of its own.
    """

    function: Callable[Concatenate[Call[Any], P], R]
    effects: Effects
    cli: tuple[str, ...] | None = None
    tool: str | None = None
    title: str | None = None
    local: bool = False
    id_field: str | None = None
    text_field: str | None = None

    @property
    def name(self) -> str:
        return self.function.__name__

    @cached_property
    def doc(self) -> str:
        return inspect.cleandoc(self.function.__doc__ or "")

    @property
    def summary(self) -> str:
        """The docstring's first paragraph on one line."""
        return " ".join(self.doc.partition("\n\n")[0].split())

    @property
    def fields(self) -> tuple[Field, ...]:
        return fields_of(self.function)

    @cached_property
    def result_type(self) -> type[R]:
        kind: type[R] = return_type(self.function)
        return kind

    def request(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Python arguments as JSON parameters and, apart, the streams. Raises `TypeError` like a Python call would,
        and `InvalidArgument` when a value breaks its rule."""
        bound = inspect.signature(self.function).bind(None, *args, **kwargs).arguments
        optional = {field.name for field in self.fields if field.optional}
        given = {
            field.name: _plain(bound[field.name])
            for field in self.fields
            if field.name in bound and not (bound[field.name] is None and field.name in optional)
        }
        params, streams = self.separated(given)
        typed = self.validate(params)
        return self.localized({name: typed[name] for name in params}), streams

    def separated(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """`given` with True in the place of its streams, and these apart, text as UTF-8. Raises `InvalidArgument`."""
        names = {field.name for field in self.fields if field.param.stream and field.name in given}
        streams = {name: as_bytes(name, given[name]) for name in names}
        return {name: True if name in names else value for name, value in given.items()}, streams

    def localized(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Valid parameters as they travel: paths of this host absolute, seen from this process's directory."""
        paths = {field.name: field for field in self.fields if field.param.host_path}
        here = {
            name: "."
            for name, field in paths.items()
            if field.param.here_when is not None and all(map(params.get, field.param.here_when))
        }
        return {name: _absolute(value) if name in paths else value for name, value in {**here, **params}.items()}

    def validate(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters, typed, with defaults. Raises `InvalidArgument` naming the parameter and its rule."""
        from pyro_mcp.operations.validate import validate

        return validate(self.name, self.fields, params)

    def answer(self, call: Call[Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """Run the verb on untrusted JSON parameters and encode its result. Raises whatever the verb raises."""
        from pyro_mcp.operations.encode import encode

        arguments = self.validate(params)
        call.given = frozenset(params)
        for field in self.fields:
            if field.param.stream:
                arguments[field.name] = call.input() if arguments[field.name] else None
        invoke: Callable[..., Any] = self.function
        return encode(invoke(call, **arguments))

    def result(self, payload: Mapping[str, Any]) -> R:
        """The typed result of an encoded answer. Unknown fields of a newer node are ignored."""
        from pyro_mcp.operations.encode import decode

        return decode(payload, self.result_type)


def _plain(value: Any) -> Any:
    """A Python argument as JSON has it."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _absolute(path) for key, path in value.items()}
    return os.path.abspath(os.path.expanduser(value)) if isinstance(value, str) else value


def operation(
    *,
    effects: Effects,
    cli: tuple[str, ...] | None = None,
    tool: str | None = None,
    title: str | None = None,
    local: bool = False,
    id_field: str | None = None,
    text_field: str | None = None,
) -> Callable[[Callable[Concatenate[Call[Any], P], R]], Operation[P, R]]:
    """Declare the decorated function a public verb."""

    def declare(function: Callable[Concatenate[Call[Any], P], R]) -> Operation[P, R]:
        return Operation(function, effects, cli, tool, title, local, id_field, text_field)

    return declare


def operations_in(module: object) -> Iterator[Operation[Any, Any]]:
    """The operations that `module` defines, in order."""
    for value in vars(module).values():
        if isinstance(value, Operation) and value.function.__module__ == getattr(module, "__name__", None):
            yield value


def find(operations: Mapping[str, Operation[Any, Any]], name: str) -> Operation[Any, Any]:
    """The operation called `name`. Raises `InvalidArgument` for a verb that does not exist."""
    try:
        return operations[name]
    except KeyError:
        raise InvalidArgument(
            f"cannot call {name[:64]!r}: no such verb", hint="Client and node may be of different versions."
        ) from None
