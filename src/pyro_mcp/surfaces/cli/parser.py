"""Parser: the command line, read from the operations.

Only the chosen command's parameters are evaluated; the others are a word and a line of help. Everything after `--` is
the command to run and never looked at, so its words keep their boundaries.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn, get_args, get_origin

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.operations.fields import Field
from pyro_mcp.operations.operation import Operation
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.wording import CLI
from pyro_mcp.version import VERSION

OWN_COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "a short tour: create, start, exec, delete"),
    "node": ("node", "look at the process that owns the machines, or stop it"),
    "mcp": ("serve", "serve the tools to a chat host"),
    "host": ("host", "connect chat hosts, and see whether they start pyro"),
    "completion": ("completion", "print a completion script for bash, zsh or fish"),
}
"""First word of a command that is no operation → the module of `surfaces.cli` that adds it, and its line of help."""

TERMINALS = {"attach_shell": "attach", "trust_project": "project"}
"""Operations that take over the terminal or ask the person at it → the module of `surfaces.cli` that does that."""

Handler = Callable[[argparse.Namespace], int]


_IN_OUR_WORDS = (
    (r"^argument (\S+): invalid int value: (.*)$", r"\1 takes a whole number, got \2"),
    (r"^argument (\S+): invalid float value: (.*)$", r"\1 takes a number, got \2"),
    (r"^argument (\S+): expected one argument$", r"\1 needs a value"),
    (r"^argument (\S+): ignored explicit argument (.*)$", r"\1 takes no value, got \2"),
    (r"^argument (\S+): not allowed with argument (\S+)$", r"\1 and \2 exclude each other"),
    (r"^one of the arguments (\S+) (\S+) is required$", r"\1 or \2 is missing"),
    (r"^the following arguments are required: (.*)$", r"missing: \1"),
)
"""What `argparse` says, and how a person would."""


_ALIASES = {"ls": "list", "ps": "list", "rm": "delete", "ws": "workspace"}
"""What people type who come from elsewhere."""


class Wrapped(argparse.RawDescriptionHelpFormatter):
    """Descriptions by paragraphs, each as wide as the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return wrapped(text, width, indent)


def wrapped(text: str, width: int, indent: str = "") -> str:
    """`text` with each of its paragraphs broken anew. What is laid out, as a list or as code, stays."""
    import textwrap

    def fill(paragraph: str) -> str:
        if any(line.startswith((" ", "- ", "|", "```", "#")) for line in paragraph.split("\n")):
            return paragraph
        return textwrap.fill(
            paragraph,
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )

    return "\n\n".join(map(fill, text.split("\n\n")))


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `InvalidArgument` and knows which word was meant."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", Wrapped)
        super().__init__(**options)

    @property
    def example(self) -> str:
        """What stands where the first word goes, such as `debian:12`."""
        words = [action.metavar for action in self._get_positional_actions()]
        return "debian:12" if words == ["ENV"] else " ".join(str(word) for word in words)

    def error(self, message: str) -> NoReturn:
        for said, ours in _IN_OUR_WORDS:
            message = re.sub(said, ours, message)
        raise InvalidArgument(
            f"cannot read the command line: {message}", hint=f"{self._explained(message)}See `{self.prog} --help`."
        )

    def _explained(self, message: str) -> str:
        """What the first word is that is missing, if one is."""
        missing = message.removeprefix("missing: ").split(", ")[0] if message.startswith("missing: ") else None
        found = [action for action in self._get_positional_actions() if action.metavar == missing]
        return f"{missing}: {str(found[0].help).replace('%%', '%')}. " if found else ""

    def shown(self, _namespace: argparse.Namespace) -> int:
        """The handler of `pyro` alone."""
        self.print_help()
        return 0

    def meant(self, wrong: str) -> str | None:
        """The known flag or command closest to `wrong`."""
        from difflib import get_close_matches

        alias = _ALIASES.get(wrong)
        known = [flag for action in self._actions for flag in action.option_strings]
        for action in self._actions:
            known += [str(choice) for choice in action.choices or ()]
        if alias in known:
            return alias
        return next(iter(get_close_matches(wrong.partition("=")[0], known, 1)), None)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            named = [*action.option_strings, str(action.metavar)][0]
            what = "command" if isinstance(action, argparse._SubParsersAction) else named
            raise self.unknown(what, str(value), ", ".join(map(str, action.choices)))

    def unknown(self, what: str, wrong: str, known: str | None = None) -> InvalidArgument:
        """The error for a word nobody knows, with the one that was probably meant."""
        meant = self.meant(wrong)
        hint = f"Did you mean {meant}?" if meant else f"Known: {known}." if known else f"See `{self.prog} --help`."
        return InvalidArgument(f"cannot read the command line: unknown {what} {wrong!r}", hint=hint)


class Pairs(argparse.Action):
    """Collects `KEY=VALUE` words into a mapping."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, value: Any, option_string: Any = None) -> None:
        key, equals, rest = str(value).partition("=")
        if not equals or not key:
            given = "" if option_string == "--secret" else f", got {str(value)[:80]!r}"
            raise InvalidArgument(
                f"cannot read the command line: {option_string} takes KEY=VALUE{given}",
                hint=f"Write {option_string} key=value.",
            )
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest, None) or {}), key: rest})


class Key(argparse.Action):
    """Puts its value into a mapping, under the key that is its own."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, value: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest, None) or {}), self.const: value})


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The parsed command line; `handler` is what to call with it, `words` what stood after `--` (None: no `--`).

    Raises `InvalidArgument`, or `SystemExit` after `--help` and `--version`.
    """
    before, words = split(argv)
    if before[:1] == ["--json"] and len(before) > 1:
        # It belongs to the command, and nobody who asks for it first means anything else.
        before = [*before[1:], "--json"]
    first = next((word for word in before if not word.startswith("-")), None)
    root = build(first if first in catalog.COMMANDS or first in OWN_COMMANDS else "")
    namespace, surplus = root.parse_known_args(before)
    leaf: Parser = getattr(namespace, "leaf", root)
    several = leaf.get_default("several")
    if several:
        # `argparse` gives a list of words none that stand behind an option.
        words_behind = [word for word in surplus if not word.startswith("-")]
        setattr(namespace, several, [*getattr(namespace, several, []), *words_behind])
        surplus = [word for word in surplus if word.startswith("-")]
    if surplus:
        raise _surplus(leaf, surplus)
    if not argv:
        namespace.handler = root.shown
    if not hasattr(namespace, "handler"):
        leaf.print_help(sys.stderr)
        raise InvalidArgument("cannot read the command line: no command given", hint=f"See `{leaf.prog} --help`.")
    namespace.words = words
    if words is not None and not getattr(namespace, "takes_words", False):
        raise InvalidArgument(f"cannot read the command line: `{leaf.prog}` takes nothing after --")
    return namespace


def split(argv: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """What stands before the first `--`, and what stands after it."""
    if "--" not in argv:
        return list(argv), None
    at = list(argv).index("--")
    return list(argv[:at]), list(argv[at + 1 :])


def build(only: str | None) -> Parser:
    """The parser with the parameters of command `only`; None for all of them, an empty text for none."""
    root = Parser(prog="pyro", description="Disposable sandboxes in real virtual machines.")
    root.add_argument("--version", action="version", version=f"pyro {VERSION}")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for word, (modules, line) in catalog.COMMANDS.items():
        if only in (None, word):
            found = [operation for module in modules for operation in catalog.operations(module) if operation.cli]
            _add_operations(commands, word, found, line)
        else:
            commands.add_parser(word, help=line)
    for word, (module, line) in OWN_COMMANDS.items():
        added = commands.add_parser(word, help=line, description=line)
        if only in (None, word):
            added.set_defaults(leaf=added)
            import_module(f"pyro_mcp.surfaces.cli.{module}").configure(added)
    return root


def common_options(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    """The options that every command takes."""
    group = parser.add_argument_group("common options")
    if json:
        group.add_argument("--json", action="store_true", help="print one JSON document")
    group.add_argument("--state-dir", metavar="DIR", help="where machines and records are kept")
    group.add_argument("--cache-dir", metavar="DIR", help="where images are kept")


def add_leaf(
    commands: Any, word: str, handler: Handler, line: str, description: str | None = None, **options: Any
) -> Parser:
    """A command that does something: registered with its handler and the common options."""
    added: Parser = commands.add_parser(word, help=line, description=description or line, **options)
    added.set_defaults(handler=handler, leaf=added)
    return added


def _add_operations(commands: Any, word: str, operations: list[Operation[Any, Any]], line: str, depth: int = 1) -> None:
    """The command `word`, the `depth`-th of the operations' words: one operation, or a group of further words."""
    if len(operations) == 1 and len(operations[0].cli or ()) == depth:
        _add_operation(commands, word, operations[0], line if depth == 1 else CLI.text(operations[0].summary))
        return
    group = commands.add_parser(word, help=line, description=line)
    group.set_defaults(leaf=group)
    inner = group.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    for below in dict.fromkeys((operation.cli or ())[depth] for operation in operations):
        mine = [operation for operation in operations if (operation.cli or ())[depth] == below]
        _add_operations(inner, below, mine, catalog.GROUPS.get((word, below), ""), depth + 1)


def _add_operation(commands: Any, word: str, operation: Operation[Any, Any], line: str) -> None:
    from pyro_mcp.surfaces.cli.invoke import run_operation

    added = add_leaf(commands, word, run_operation, line, CLI.text(operation.doc))
    takes_words = False
    for field in operation.fields:
        takes_words = takes_words or field.param.cli == "command"
        _add_field(added, field)
    common_options(added)
    if operation.id_field:
        added.add_argument("--id-only", action="store_true", help="print nothing but the id")
    if operation.text_field:
        flag = f"--{operation.text_field}-only"
        line = f"print nothing but the {operation.text_field}, as it stands, also with --json"
        added.add_argument(flag, dest="text_only", action="store_true", help=line)
    if takes_words:
        added.usage = added.format_usage().removeprefix("usage: ").rstrip() + " -- CMD ..."
        added.epilog = (
            "Everything after -- is the command; its words are passed on as they stand, without a shell."
            " For a line of shell: -- bash -c 'LINE'."
        )
    added.set_defaults(operation=operation, takes_words=takes_words)
    if operation.name in TERMINALS:
        import_module(f"pyro_mcp.surfaces.cli.{TERMINALS[operation.name]}").configure(added)


def _add_field(parser: argparse.ArgumentParser, field: Field) -> None:
    """One parameter as an option or argument. What is not given stays absent, so the verb's default rules."""
    text = _worded(field.description)
    if field.param.cli in ("command", "never"):
        return
    if field.param.key_flags:
        for key, flag, metavar, line in field.param.key_flags:
            parser.add_argument(
                flag,
                dest=field.dest,
                action=Key,
                const=key,
                metavar=metavar,
                help=_worded(line),
                default=argparse.SUPPRESS,
            )
    elif field.param.cli == "stdin":
        parser.add_argument(
            "-i", f"--{field.name}", dest=field.dest, action="store_true", help=text, default=argparse.SUPPRESS
        )
    elif field.param.cli == "json_file":
        _add_json(parser, field, text)
    elif field.param.cli == "positional":
        _add_positional(parser, field, text)
    elif field.type is bool:
        action, line = ("store_true", text)
        if field.default is True:
            action, line = ("store_false", _worded(f"do not {field.param.help}"))
        parser.add_argument(field.flag, dest=field.dest, action=action, help=line, default=argparse.SUPPRESS)
    elif kinds := {get_origin(kind) for kind in (field.type, *get_args(field.type))} & {dict, list}:
        parser.add_argument(
            field.flag,
            dest=field.dest,
            action="append" if list in kinds else Pairs,
            metavar=field.param.metavar,
            help=f"{text}; may be given several times{_empty(field)}",
            default=argparse.SUPPRESS,
        )
    else:
        _add_value(parser, field, text)


def _add_positional(parser: argparse.ArgumentParser, field: Field, text: str) -> None:
    """A word in order; a list takes all that follow."""
    several = get_origin(field.type) is list
    if several:
        parser.set_defaults(several=field.dest)
    many: dict[str, Any] = {} if field.required else {"nargs": "*" if several else "?", "default": argparse.SUPPRESS}
    parser.add_argument(field.dest, metavar=field.param.metavar or field.name.upper(), help=text, **many)


def _add_json(parser: argparse.ArgumentParser, field: Field, text: str) -> None:
    from pyro_mcp.surfaces.cli.textfile import read_json

    parser.add_argument(
        field.flag,
        dest=field.dest,
        type=read_json,
        metavar=field.param.metavar,
        help=f"{text}: a JSON file; - is standard input",
        default=argparse.SUPPRESS,
    )


def _worded(text: str) -> str:
    """A help text as `argparse` takes it, in this surface's words."""
    return CLI.text(text).replace("%", "%%")


def _empty(field: Field) -> str:
    return f", or once as '' to {field.param.empty}" if field.param.empty else ""


def _add_value(parser: argparse.ArgumentParser, field: Field, text: str) -> None:
    """An option with one value, and beside it, where the parameter says so, one that names a file with the value."""
    both = field.param.file_flag
    group = parser.add_mutually_exclusive_group(required=field.required) if both else parser
    alone: dict[str, Any] = {"required": True} if field.required and not both else {}
    group.add_argument(
        field.flag,
        **alone,
        dest=field.dest,
        type=field.type if field.type in (int, float) else str,
        choices=field.choices or None,
        metavar=field.param.metavar,
        help=text,
        default=argparse.SUPPRESS,
    )
    if field.param.file_flag:
        from pyro_mcp.surfaces.cli.textfile import read_text

        group.add_argument(
            field.param.file_flag,
            dest=field.dest,
            type=read_text,
            metavar="FILE",
            help=f"the same from a file; - is standard input (instead of {field.flag})",
            default=argparse.SUPPRESS,
        )


def _surplus(leaf: Parser, surplus: list[str]) -> InvalidArgument:
    wrong = surplus[0]
    if wrong.startswith("-"):
        return leaf.unknown("flag", wrong)
    if leaf.get_default("takes_words"):
        return InvalidArgument(
            f"cannot read the command line: unexpected {wrong!r}",
            hint=f"Put the command after --, as in `{leaf.prog} {leaf.example} -- {wrong} ...`.",
        )
    return leaf.unknown("argument", wrong)
