"""`pyro demo`: the tour. Creates a machine, runs commands in it, deletes it, and says so in short lines.

`pyro demo ollama` has a local model do it."""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import TYPE_CHECKING

from pyro_mcp.errors import MachineFailed, PyroError
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.cli.parser import Parser, add_leaf, common_options

if TYPE_CHECKING:
    from pyro_mcp.model.process import RunResult

ENVIRONMENT = "debian:12"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the tour's options, and the command in which a model takes it."""
    from pyro_mcp.surfaces.cli import demo_ollama

    parser.set_defaults(handler=run_demo)
    parser.add_argument("--environment", default=ENVIRONMENT, metavar="ENV", help=f"default {ENVIRONMENT}")
    common_options(parser)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    line = "let a local model of Ollama run a command, by tool calling"
    # Without a default of their own, the options given before the word hold.
    ollama = add_leaf(commands, "ollama", demo_ollama.run_demo, line, argument_default=argparse.SUPPRESS)
    demo_ollama.configure(ollama)


def run_demo(namespace: argparse.Namespace) -> int:
    """The tour; raises `PyroError` when any step of it does not do what it should."""
    from pyro_mcp.surfaces.sdk import Pyro

    output: Output = namespace.output
    say = _Say(output)
    with Pyro(
        state_dir=namespace.state_dir,
        cache_dir=namespace.cache_dir,
        on_progress=output.progress,
        on_notice=output.notice,
    ) as pyro:
        begun = time.monotonic()
        first = pyro.run_in_vm(namespace.environment, command=["git", "--version"])
        say(f"run     git --version -> {_only_line(first)}  ({time.monotonic() - begun:.1f} s)")
        machine = pyro.create_vm(namespace.environment)
        try:
            say(f"create  {machine.vm_id}: {machine.vcpu_count} vCPU, {machine.mem_mib} MiB")
            begun = time.monotonic()
            started = pyro.start_vm(machine.vm_id)
            say(f"start   ready after {time.monotonic() - begun:.2f} s, isolation: {started.isolation}")
            second = pyro.exec_vm(machine.vm_id, command=["uname", "-sr"])
            say(f"exec    uname -sr -> {_only_line(second)}, a kernel of its own")
            say(f"delete  {machine.vm_id}: {second.cleanup.reason}")
        except BaseException:
            # The machine may be gone already; the first fault is the one to report.
            with contextlib.suppress(PyroError):
                pyro.delete_vm(machine.vm_id)
            raise
    if output.as_json:
        output.document({"ok": True, "steps": say.lines})
    else:
        say("done    nothing is left of either machine")
    return 0


class _Say:
    """Prints one line at a time, or keeps them for the JSON document."""

    def __init__(self, output: Output) -> None:
        self.lines: list[str] = []
        self._output = output

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if not self._output.as_json:
            self._output.finish()
            print(line, flush=True)


def _only_line(result: RunResult) -> str:
    if result.exit_code != 0:
        raise MachineFailed(
            f"cannot finish the demo: `{result.command}` ended with exit code {result.exit_code}: "
            f"{plain(result.stderr.strip())[:300]}",
            hint="Run `pyro doctor`.",
        )
    return plain(result.stdout.strip())
