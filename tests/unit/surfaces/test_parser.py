"""The command line: read from the verbs, quick, and helpful about what was meant."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.surfaces.cli.invoke import arguments
from pyro_mcp.surfaces.cli.main import main
from pyro_mcp.surfaces.cli.parser import build, parse, split


def test_words_after_the_dashes_keep_their_boundaries() -> None:
    namespace = parse(["run", "debian:12", "--json", "--", "sh", "-lc", "a  b", "--", "--help"])
    assert arguments(namespace.operation, namespace)[0]["command"] == ["sh", "-lc", "a  b", "--", "--help"]
    assert namespace.json is True


def test_flags_become_parameters_and_what_is_left_out_stays_out() -> None:
    namespace = parse(["run", "--vcpu-count", "2", "debian:12", "--network", "-i", "--", "true"])
    params, inputs = arguments(namespace.operation, namespace)
    assert params == {
        "environment": "debian:12",
        "command": ["true"],
        "vcpu_count": 2,
        "network": True,
        "stdin": True,
    }
    assert inputs == {"stdin": 0}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("workspace create debian:12 --network-policy no", "unknown --network-policy 'no'"),
        ("mcp serve --profile no", "unknown --profile 'no'"),
        ("completion no", "unknown SHELL 'no'"),
        ("workspace no", "unknown command 'no'"),
    ],
)
def test_a_wrong_word_is_told_by_what_was_typed(line: str, told: str) -> None:
    with pytest.raises(InvalidArgument, match=f"cannot read the command line: {told}"):
        parse(line.split())


def test_a_mapping_of_fixed_keys_has_an_option_for_each() -> None:
    line = ["workspace", "service", "start", "w", "web", "--ready-tcp", "127.0.0.1:80"]
    line += ["--publish", "8080:80", "--publish", "81", "--", "serve"]
    namespace = parse(line)
    params, _ = arguments(namespace.operation, namespace)
    assert params["readiness"] == {"tcp": "127.0.0.1:80"}
    assert params["published_ports"] == ["8080:80", "81"]
    both = parse([*line[:5], "--ready-file", "x", "--ready-http", "http://127.0.0.1/", "--", "serve"])
    assert arguments(both.operation, both)[0]["readiness"] == {"file": "x", "http": "http://127.0.0.1/"}


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        (["rnu"], "unknown command 'rnu'", "run"),
        (["run", "debian:12", "--vcpu-cont", "2", "--", "x"], "--vcpu-cont", "--vcpu-count"),
        (
            ["run", "debian:12", "--vcpu-count", "4g", "--", "x"],
            "--vcpu-count takes a whole number, got '4g'",
            "--help",
        ),
        (["run", "debian:12", "--vcpu-count", "--", "x"], "--vcpu-count needs a value", "--help"),
        (["workspace", "export", "w", "p"], "missing: --output", "--help"),
        (["workspace", "file", "write", "w", "p"], "--text or --text-file is missing", "--help"),
        (["workspace", "patch", "apply", "w"], "--patch or --patch-file is missing", "--help"),
        (
            ["workspace", "file", "write", "w", "p", "--text", "x", "--text-file", "/dev/null"],
            "exclude each other",
            "--help",
        ),
        (["workspace", "ls"], "unknown command 'ls'", "Did you mean list?"),
        (["workspace", "rm"], "unknown command 'rm'", "Did you mean delete?"),
        (["ws", "list"], "unknown command 'ws'", "Did you mean workspace?"),
        (["run", "--json", "--", "x"], "ENV", "--help"),
        (["run", "debian:12", "git", "--version"], "unexpected 'git'", "after --"),
        (["env"], "no command", "pyro env --help"),
        (["env", "lst"], "unknown command 'lst'", "list"),
        (["env", "list", "--", "x"], "takes nothing after --", None),
        (["mcp", "serve", "--profile", "vm-rnu"], "vm-rnu", "vm-run"),
        (["--", "true"], "no command", "pyro --help"),
        (["run", "--", "true"], "missing: ENV", "ENV: debian:12 (git), debian:12-base, "),
        (["workspace", "exec", "--", "true"], "missing: W", "W: workspace id, or its name. See"),
        (["completion", "tcsh"], "tcsh", None),
    ],
)
def test_a_bad_line_is_answered_with_what_was_meant(line: list[str], message: str, hint: str | None) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(line)
    assert message in caught.value.message
    if hint:
        assert hint in str(caught.value.hint)


def test_the_word_alone_is_answered_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("usage: pyro")
    assert said.err == ""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (b"hi\n", True),
        (b"", False),
        (None, False),
        (Path("/dev/null"), False),
        (Path("file"), True),
        (Path("empty"), False),
        ("closed", False),
        ("write end", False),
    ],
)
def test_input_that_nobody_reads_is_noticed_and_left(tmp_path: Path, given: Any, told: bool) -> None:
    (tmp_path / "file").write_bytes(b"hi\n")
    (tmp_path / "empty").touch()
    reads, writes = os.pipe()
    if isinstance(given, bytes):
        os.write(writes, given)
        os.close(writes)
    stdin = (
        os.open(tmp_path / given, os.O_RDONLY) if isinstance(given, Path) else {"write end": writes}.get(given, reads)
    )
    script = (
        "import os, sys; from pyro_mcp.surfaces.cli.invoke import _input_waits as waits\n"
        "sys.argv[1] == 'closed' and os.close(0)\n"
        "print(waits(), waits(), os.read(0, 9) if sys.argv[2] == 'True' else b'')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(given), str(told)], stdin=stdin, capture_output=True, text=True, timeout=20
    )
    assert done.stdout == f"{told} {told} {b'hi' + bytes([10]) if told else b''}\n", done.stderr


def test_a_missing_command_is_told() -> None:
    for line in (["run", "debian:12"], ["run", "debian:12", "--"]):
        namespace = parse(line)
        with pytest.raises(InvalidArgument, match="needs a command"):
            arguments(namespace.operation, namespace)


def test_only_the_first_dashes_count() -> None:
    assert split(["a", "--", "b", "--", "c"]) == (["a"], ["b", "--", "c"])
    assert split(["a"]) == (["a"], None)


def test_every_command_can_be_built_and_has_help() -> None:
    for parser in leaves(build(None)):
        text = parser.format_help()
        assert "--state-dir" in text or "completion" in parser.prog or "SHELL" in text


def leaves(parser: object) -> list[object]:
    found: list[object] = []
    for action in parser._actions:  # type: ignore[attr-defined]
        children = getattr(action, "choices", None)
        if isinstance(children, dict):
            for child in children.values():
                found += leaves(child)
    return found or [parser]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_flags(shell: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pyro_mcp", "completion", shell], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "vcpu-count" in done.stdout
    assert "workspace-core" in done.stdout or shell == "fish"
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--allow-host", ""], []),
        (["--allow-host="], []),
        (["--allow-host", "a.test", "--allow-host", "b.test"], ["a.test", "b.test"]),
        (["--allow-host", "", "--allow-host", "a.test"], ["", "a.test"]),
        (["--allow-address", ""], [""]),
    ],
)
def test_an_empty_list_is_the_option_once_with_nothing(given: list[str], read: list[str]) -> None:
    """Beside another value, or where an empty list means nothing special, '' stays and is refused as what it is."""
    namespace = parse(["workspace", "create", "debian:12", *given])
    (value,) = [value for name, value in arguments(namespace.operation, namespace)[0].items() if "allow" in name]
    assert value == read


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from pyro_mcp.surfaces.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['--help'])\n"
        "heavy = {'mcp', 'pydantic', 'rich', 'msgspec', 'sqlite3', 'asyncio', 'anyio'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_errors_are_json_when_json_was_asked_for(tmp_path: object) -> None:
    import json

    line = [sys.executable, "-m", "pyro_mcp", "run", "debian:12", "--json", "--vcpu-count", "0", "--", "true"]
    done = subprocess.run([*line[:6], "--state-dir", str(tmp_path), *line[6:]], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == ""
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "invalid_argument"
    assert error["exit_code"] == 2
    assert not list(tmp_path.iterdir()), "a bad flag starts no node"  # type: ignore[attr-defined]


def test_json_may_stand_before_the_command() -> None:
    assert parse(["--json", "env", "list"]).json is True
    namespace = parse(["--json", "run", "debian:12", "--", "echo", "--json"])
    assert namespace.json is True
    assert namespace.words == ["echo", "--json"]


def test_usage_shows_what_is_required(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for line, shown in (
        ("workspace export", " --output HOST_PATH "),
        ("workspace file write", " (--text TEXT | --text-file FILE) "),
        ("workspace patch apply", " (--patch TEXT | --patch-file FILE) "),
    ):
        with pytest.raises(SystemExit):
            parse([*line.split(), "--help"])
        assert shown in capsys.readouterr().out


@pytest.mark.parametrize("width", [50, 80, 140])
def test_help_is_as_wide_as_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        parse(["workspace", "export", "--help"])
    text = capsys.readouterr().out
    _, _, rest = text.partition("Setuid")
    lines = ("Setuid" + rest).partition("\n\n")[0].split("\n")
    assert all(len(line) <= width - 2 for line in lines)
    for line, following in itertools.pairwise(lines):
        assert len(line) + 1 + len(following.split()[0]) > width - 2, "no line ends early"
