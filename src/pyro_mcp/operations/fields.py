"""Fields: the parameters of a verb, read once from its signature.

`Annotated[int, Param(help="...", ge=1)]` is the only place where a parameter's help, range and form are written.
The annotations are evaluated when somebody asks, one function at a time, so `pyro --help` pays for none of them.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

MISSING: Any = inspect.Parameter.empty
UNBOUNDED = 1_000_000_000
"""A limit from here on is told nobody before it is met."""


@dataclass(frozen=True, slots=True)
class Param:
    """What a parameter means to people and machines.

    `ge`/`le` bound numbers; `min_length`/`max_length` bound strings and lists, `max_bytes` all text of them together as
    UTF-8; `pattern` is an unanchored regular expression and `rule` says it in words. `cli` is how the command line
    takes it: `option` is `--name`, or `flag` where that reads better (a list or a mapping is given piece by piece),
    `positional` a word in order (of a list, all that follow), `command` everything after `--`, `stdin` the process's
    own standard input, `json_file` a file with the value as JSON, `never` not at all. `file_flag` is a second option,
    whose value is a file that holds the text. `tool` says which MCP servers show it: every one, only the `full`
    profile, only one started with `host_compat` allowed or with a `project`, or `never`; a number is lowered to
    `tool_max` there, and `tool_default` is its default there. A `stream` is in a tool a text of at most `tool_max`
    bytes, which `tool_help` explains. What has several types takes in a tool one parameter for each, of which exactly
    one is given: `tool_forms` are their (name, help), in the order of the types, the first under its own name. A
    `host_path` is made absolute by the client, because the node has another working directory; of a mapping, the values
    are; left out, it is the client's working directory where the parameters named by `here_when` are all true. A
    `host_output` is a `host_path` that is written. Of a
    list with a meaning when it is empty, `empty` says it: there, the option given once with '' is that list. A `secret`
    value is shown in no error. A mapping whose keys are fixed takes on the command line one option for each of them:
    `key_flags` are (key, flag, metavar, help). `opens_network`: it can let something through between a guest and what
    lies outside of it.
    """

    help: str = ""
    ge: int | float | None = None
    le: int | float | None = None
    min_length: int | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    pattern: str | None = None
    rule: str | None = None
    metavar: str | None = None
    flag: str | None = None
    file_flag: str | None = None
    host_path: bool = False
    host_output: bool = False
    here_when: tuple[str, ...] | None = None
    secret: bool = False
    opens_network: bool = False
    empty: str | None = None
    cli: Literal["option", "positional", "command", "stdin", "json_file", "never"] = "option"
    key_flags: tuple[tuple[str, str, str, str], ...] = ()
    tool: Literal["always", "full", "host_compat", "project", "never"] = "always"
    tool_max: int | None = None
    tool_default: str | None = None
    tool_help: str | None = None
    tool_forms: tuple[tuple[str, str], ...] = ()
    stream: bool = False

    @property
    def limits(self) -> str:
        """The range in words, such as `1 to 32`; empty when there is none."""
        if self.ge is not None and self.le is not None:
            return f"{self.ge} to {self.le}"
        if self.ge is not None:
            return f"at least {self.ge}"
        if self.le is not None:
            return f"at most {self.le}"
        return self.rule or ""


@dataclass(frozen=True, slots=True)
class Field:
    """One evaluated parameter: `type` is bare, without `Param` and without `None`."""

    name: str
    type: Any
    optional: bool
    default: Any
    positional: bool
    param: Param

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed words of a `Literal` parameter; empty for any other."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def flag(self) -> str:
        return self.param.flag or "--" + self.name.replace("_", "-")

    @property
    def dest(self) -> str:
        """Where a parsed command line keeps it, apart from what else that holds."""
        return f"param_{self.name}"

    @property
    def description(self) -> str:
        """The help with the limits and the default: some readers see nothing but this text."""
        bounded = self.param.le is None or self.param.le < UNBOUNDED
        notes = [self.param.limits] if self.param.limits and bounded and self.type in (int, float) else []
        notes += [", ".join(self.choices)] if self.choices else []
        if not self.required and self.default not in (None, False):
            notes.append(f"default {self.default}")
        return self.param.help + (f" ({'; '.join(notes)})" if notes else "")


@cache
def fields_of(function: Callable[..., Any]) -> tuple[Field, ...]:
    """The fields of `function` in order, without its first parameter, the call."""
    namespace = inspect.unwrap(function).__globals__
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return tuple(_field(parameter, namespace) for parameter in parameters)


def return_type(function: Callable[..., Any]) -> Any:
    """The evaluated result type of `function`."""
    return _evaluate(function.__annotations__["return"], function.__globals__)


def _field(parameter: inspect.Parameter, namespace: Mapping[str, Any]) -> Field:
    annotation = _evaluate(parameter.annotation, namespace)
    bare, optional, param = _peel(annotation)
    positional = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    return Field(parameter.name, bare, optional, parameter.default, positional, param or Param())


def _evaluate(annotation: Any, namespace: Mapping[str, Any]) -> Any:
    if isinstance(annotation, str):
        # The text is this package's own source, never input: it is what `typing.get_type_hints` would evaluate.
        return eval(annotation, dict(namespace))
    return annotation


def _peel(annotation: Any) -> tuple[Any, bool, Param | None]:
    """Split an annotation into its bare type, whether None is allowed, and its `Param`."""
    param: Param | None = None
    optional = False
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *extras = get_args(annotation)
            found = [extra for extra in extras if isinstance(extra, Param)]
            param = param or (found[0] if found else None)
            continue
        members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
        if type(None) not in members:
            return annotation, optional, param
        optional = True
        rest = [member for member in members if member is not type(None)]
        annotation = rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007
