#!/usr/bin/env python3
"""Write docs/reference from the code: commands, methods, tools and errors. `--check` only says what is stale."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyro_mcp import errors
from pyro_mcp.operations.fields import return_type
from pyro_mcp.operations.operation import Operation
from pyro_mcp.operations.wording import Wording
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.cli.parser import build, wrapped
from pyro_mcp.surfaces.wording import SDK

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "reference"
WIDTH = 120
NOTE = "<!-- Written by scripts/reference.py from the code; `make reference` renews it. -->\n"


def cli_page() -> Iterator[str]:
    yield "# Command line\n"
    yield (
        "Output is for people, or one JSON document on stdout with `--json`; progress, notices and errors go to "
        "stderr. `pyro run` ends with the command's own exit code, 124 when it was killed after "
        "`--timeout-seconds`; [errors](errors.md) lists the others. A reader that leaves early ends the command "
        "(141), and so do Ctrl-C (130) and SIGTERM (143). On a terminal a command's output keeps its colours and "
        "loses every sequence that would command the terminal; a pipe gets the bytes as they are.\n"
    )
    for parser in leaves(build(None)):
        yield from command(parser)


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups or parser.get_default("handler"):
        yield parser
    for group in groups:
        for child in group.choices.values():
            yield from leaves(child)


def command(parser: argparse.ArgumentParser) -> Iterator[str]:
    arguments = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
    words = [action.metavar for action in arguments if not action.option_strings]
    tail = ["-- CMD ..."] if parser.get_default("takes_words") else []
    title = " ".join([parser.prog, *map(str, words), *tail])
    yield f"## `{title}`\n"
    yield f"{wrapped(parser.description or '', WIDTH)}\n"
    yield "| argument | meaning |\n|---|---|"
    for action in arguments:
        if "--help" in action.option_strings:
            continue
        value = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
        name = ", ".join(action.option_strings) + value if action.option_strings else str(action.metavar)
        yield f"| `{name}` | {str(action.help).replace('%%', '%')} |"
    yield ""


def sdk_page() -> Iterator[str]:
    from pyro_mcp.surfaces.async_sdk import AsyncPyro
    from pyro_mcp.surfaces.sdk import Pyro

    yield "# Python\n"
    for kind in (Pyro, AsyncPyro):
        yield f"```python\nfrom pyro_mcp import {kind.__name__}\n```\n\n{inspect.getdoc(kind)}\n"
    results: dict[str, Any] = {}
    for verb in catalog.every_operation():
        if verb.local:
            continue
        answered = return_type(verb.function)
        results[answered.__name__] = answered
        yield f"## `{signature(verb)}`\n\n{wrapped(SDK.text(verb.doc), WIDTH)}\n"
        yield from parameters(verb.fields, SDK)
    yield '## Results\n\nFrozen dataclasses that also answer `result["field"]`.\n'
    for name, answered in sorted(results.items()):
        yield f"### `{name}`\n\n{wrapped(inspect.getdoc(answered) or '', WIDTH)}\n"
        names = (f"`{field.name}`: `{field.type}`" for field in dataclasses.fields(answered))
        yield ", ".join(names) + "\n"


def signature(verb: Operation[Any, Any]) -> str:
    shown: list[str] = []
    for field in verb.fields:
        if not field.positional and "*" not in shown:
            shown.append("*")
        shown.append(field.name if field.required else f"{field.name}={field.default!r}")
    return f"Pyro.{verb.name}({', '.join(shown)}) -> {return_type(verb.function).__name__}"


def parameters(fields: Any, wording: Wording) -> Iterator[str]:
    if fields:
        yield "| parameter | meaning |\n|---|---|"
        yield from (f"| `{field.name}` | {wording.text(field.description)} |" for field in fields)
        yield ""


def mcp_page() -> Iterator[str]:
    from pyro_mcp.surfaces.mcp.tools import BoundTool, tool_wording

    yield "# MCP tools\n"
    yield (
        "`pyro mcp serve --profile PROFILE` serves them over standard input and output. Each tool names "
        "the profiles that show it. Arguments for network and secrets are there only under `workspace-full`; "
        "`allow_host_compat` only when the server was started with `--allow-host-compat`, so that no argument can "
        "widen isolation beyond that. stdout and stderr are cut to about 8,000 characters each, 10,000 together, "
        "in the middle; the mark and `..._dropped_bytes` say how much is missing. Of a diff the whole "
        "`patch` says each text, and `text_patch` in `entries` is null. Errors are text: message, `[code]`, hint.\n"
    )
    profiles = {name: {verb.tool for verb in catalog.tools(name)} for name in catalog.PROFILES}
    verbs = catalog.tools("workspace-full")
    tools = {verb.tool or "": BoundTool(verb, "workspace-full", allow_host_compat=False) for verb in verbs}
    wording = tool_wording(tools)
    for verb in verbs:
        listed = tools[verb.tool or ""].describe(wording)
        shown = ", ".join(f"`{name}`" for name, tools in profiles.items() if verb.tool in tools)
        told = wrapped(listed.description or "", WIDTH)
        yield f"## `{verb.tool}`\n\n{told}\n\nProfiles: {shown}. Hints: {hints(listed.annotations)}.\n"
        yield from parameters(catalog.tool_fields(verb, "workspace-full", allow_host_compat=False), wording)


def hints(notes: Any) -> str:
    names = {"read_only_hint": "read-only", "destructive_hint": "destructive", "idempotent_hint": "idempotent"}
    names["open_world_hint"] = "open world"
    return ", ".join(word for name, word in names.items() if getattr(notes, name)) or "none"


def errors_page() -> Iterator[str]:
    yield "# Errors\n"
    yield (
        "An error says what could not be done and why; its hint says what to do next. Code and message are the same "
        "on every surface, and so is the hint but for names: it calls operations and parameters what they are called "
        "there. A command that ends with a non-zero exit code is a result, not an error.\n"
    )
    yield "| code | class | exit code | may work later |\n|---|---|---|---|"
    for kind in [errors.PyroError, *errors.PyroError.__subclasses__()]:
        later = "yes" if kind.retryable else "no"
        yield f"| `{kind.code}` | `{kind.__name__}` | {kind.exit_code} | {later} |"
    yield "\n```text"
    yield inspect.cleandoc(errors.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]
    yield "```\n"


PAGES = {"cli.md": cli_page, "sdk.md": sdk_page, "mcp.md": mcp_page, "errors.md": errors_page}


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = []
    for name, page in PAGES.items():
        text = NOTE + "\n".join(page()).rstrip() + "\n"
        path = TARGET / name
        if check:
            stale += [name] * (not path.exists() or path.read_text() != text)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if stale:
        print(f"stale: {', '.join(stale)}; run scripts/reference.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
