"""`pyro completion`: a script for bash, zsh or fish, made from the same parser."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from pyro_mcp.surfaces.cli.parser import build


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the shell's name."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
    parser.set_defaults(handler=print_script)


def print_script(namespace: argparse.Namespace) -> int:
    """Print the script for `shell`."""
    root = build(None)
    if namespace.shell == "fish":
        sys.stdout.write("\n".join(_fish(root, ())) + "\n")
    else:
        import shtab

        sys.stdout.write(shtab.complete(root, shell=namespace.shell) + "\n")
    return 0


def _fish(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[str]:
    """One `complete` line per command and flag below `words`."""
    seen = " ".join(words)
    if not words:
        yield "complete -c pyro -f"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            here = f"test (count (__fish_pyro_words)) -eq {len(words)}; and __fish_pyro_under {seen}".rstrip()
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for word, child in action.choices.items():
                yield f"complete -c pyro -n {_quote(here)} -a {word} -d {_quote(helps.get(word, ''))}"
                yield from _fish(child, (*words, word))
        else:
            for flag in action.option_strings:
                form = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                value = "" if action.nargs == 0 else " -r"
                under = f"__fish_pyro_under {seen}".rstrip()
                yield f"complete -c pyro -n {_quote(under)} {form}{value} -d {_quote(str(action.help or ''))}"
    if not words:
        yield _FISH_FUNCTIONS


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("%%", "%") + "'"


_FISH_FUNCTIONS = """\
function __fish_pyro_words
    for word in (commandline -opc)[2..-1]
        test "$word" = "--"; and break
        string match -q -- '-*' $word; or echo $word
    end
end
function __fish_pyro_under
    set -l words (__fish_pyro_words)
    test (count $argv) -eq 0; and return 0
    test "$words[1..$(count $argv)]" = "$argv"
end"""
