"""Pages: documentation as something that can be run and compared with what it shows.

A console block holds command lines that begin with `$ `, their continuations with `> `, and what they print, with
`...` for what is different each time. A command's comment may promise an `exit code`. A block that cannot be run here
is preceded by `<!-- not run: why -->`.
"""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

_BLOCK = re.compile(r"^(?:<!-- not run: ([^\n]+) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMISE = re.compile(r" {4}# .*exit code (\d+)")
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    language: str
    text: str
    not_run: str
    """Why it is not run; empty for one that is."""


class Step(NamedTuple):
    command: str
    shown: str
    """What the page says that it prints, if it says so."""
    exit_code: int


class Outcome(NamedTuple):
    step: Step
    exit_code: int
    stdout: str
    stderr: str

    def matches(self) -> bool:
        """Whether the page tells what has happened: the exit code, and the output where it shows some."""
        if self.exit_code != self.step.exit_code:
            return False
        said = (self.stdout, self.stderr, self.stdout + self.stderr)
        checker = doctest.OutputChecker()
        return not self.step.shown or any(checker.check_output(self.step.shown, text, _FLAGS) for text in said)


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page."""
    return [Block(language, text, why or "") for why, language, text in _BLOCK.findall(path.read_text())]


def steps(path: Path) -> list[Step]:
    """The command lines of a page that are run, in their order."""
    found: list[Step] = []
    for block in blocks(path):
        if block.language == "console" and not block.not_run:
            found += _steps(block.text)
    return found


def _steps(text: str) -> list[Step]:
    found: list[Step] = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        end = next((at for at, line in enumerate(lines) if at and not line.startswith(">")), len(lines))
        command = "\n".join([lines[0], *(line[2:] for line in lines[1:end])])
        promise = _PROMISE.search(lines[0])
        shown = "".join(f"{line}\n" for line in lines[end:])
        found.append(Step(command, shown if shown.strip() else "", int(promise[1]) if promise else 0))
    return found


def run(wanted: list[Step], directory: Path, environ: dict[str, str], seconds: int) -> list[Outcome]:
    """Run the steps in one shell, as a reader would, up to the first that does not end as the page says."""
    kept = directory / ".outcomes"
    kept.mkdir()
    script = "".join(
        f"{{ {step.command}\n}} >{shlex.quote(f'{kept}/{number}.out')} 2>{shlex.quote(f'{kept}/{number}.err')}\n"
        f"code=$?; echo $code >{shlex.quote(f'{kept}/{number}.code')}; [ $code = {step.exit_code} ] || exit\n"
        for number, step in enumerate(wanted)
    )
    words = [
        "timeout",
        "--kill-after=5",
        str(seconds),
        "bash",
        "-c",
        f"trap 'kill $(jobs -p) 2>/dev/null' EXIT\n{script}",
    ]
    subprocess.run(words, cwd=directory, env=environ, stdin=subprocess.DEVNULL, check=False)
    return [_outcome(step, kept, number) for number, step in enumerate(wanted) if (kept / f"{number}.out").exists()]


def _outcome(step: Step, kept: Path, number: int) -> Outcome:
    code = kept / f"{number}.code"
    texts = [(kept / f"{number}.{end}").read_text(errors="replace") for end in ("out", "err")]
    return Outcome(step, int(code.read_text()) if code.exists() else -1, *texts)
