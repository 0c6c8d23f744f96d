"""What `--help` says: flags and commands by the names that are typed, and none of Python's."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

from pyro_mcp.model.file import FileEdit
from pyro_mcp.operations.operation import Operation
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.cli.parser import build
from pyro_mcp.surfaces.wording import CLI

VERBS = list(catalog.every_operation())
# The keys of an edit are what a person writes into the file of --edits-file.
NAMES = {verb.name for verb in VERBS} | {field.name for verb in VERBS for field in verb.fields} - set(
    FileEdit.__annotations__
)


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from commands(child)


COMMANDS = {parser.prog: parser for parser in commands(build(None))}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_no_parameter_and_keeps_no_mark(command: str) -> None:
    text = " ".join(COMMANDS[command].format_help().split())
    assert "<<" not in text
    assert NAMES.isdisjoint(word for word in re.findall(r"\w+", text) if "_" in word)


def texts(verb: Operation[object, object]) -> Iterator[str]:
    yield verb.doc
    for field in verb.fields:
        yield field.description
        yield from (line for _, _, _, line in field.param.key_flags)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb.cli], ids=lambda verb: verb.name)
def test_a_parameter_of_one_word_is_named_by_a_mark_too(verb: Operation[object, object]) -> None:
    """Without `cursor` is without a parameter, without `the cursor` is not."""
    flags = {field.name for field in verb.fields if field.param.cli == "option"}
    named = re.compile(r"\b(?:with|without|from) ([a-z]+)", re.IGNORECASE)
    assert flags.isdisjoint(word for text in texts(verb) for word in named.findall(text))


def test_the_flag_is_in_the_place_of_the_parameter() -> None:
    text = " ".join(COMMANDS["pyro workspace logs"].format_help().split())
    assert "With --sequence only that command: from --cursor on, waiting up to --wait-seconds for more" in text
    assert CLI.text("<<exec_workspace.timeout_seconds>>") == "--timeout-seconds"
