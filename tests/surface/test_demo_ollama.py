"""`pyro demo ollama` against a server that speaks Ollama's API: models that are good, bad and absent."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from scripted_ollama import ScriptedOllama, answer, calls, says

from pyro_mcp.errors import (
    InvalidArgument,
    MissingDependency,
    NotFound,
    ProtocolError,
    PyroError,
    TimedOut,
    Unsupported,
)
from pyro_mcp.surfaces.ollama import ANSWER_BYTES, Ollama

PYRO = [sys.executable, "-m", "pyro_mcp"]
GIT = {"environment": "debian:12", "command": "git --version"}


def demo(url: str, environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [*PYRO, "demo", "ollama", "--base-url", url, *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)


@pytest.fixture
def nowhere(tmp_path: Path, environ: dict[str, str]) -> dict[str, str]:
    """The variables of a state directory in which no node may ever be started."""
    return {**environ, "PYRO_STATE_DIR": str(tmp_path / "state")}


def told(chat: dict[str, Any]) -> list[str]:
    """What the tool answered, as the model saw it."""
    return [message["content"] for message in chat["messages"] if message["role"] == "tool"]


@pytest.mark.guest
def test_a_model_runs_a_command_and_each_step_is_shown(environ: dict[str, str]) -> None:
    with ScriptedOllama([calls(GIT), says("It has git 2.39.5.\n")]) as ollama:
        done = demo(ollama.url, environ)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["model", "ask", "call", "result", "answer", "done"]
    assert lines[0] == f"model   qwen3:8b at {ollama.url}"
    assert "exit code 0: git version 2." in lines[3]
    assert lines[4] == "answer  It has git 2.39.5."
    assert lines[5].startswith("done    qwen3:8b ran 1 command in a machine of its own, ")
    first, second = ollama.chats
    (tool,) = first["tools"]
    assert tool["function"]["name"] == "vm_run"
    assert {"command", "environment"} <= set(tool["function"]["parameters"]["properties"])
    assert "network" not in tool["function"]["parameters"]["properties"]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "tool"]
    answered = json.loads(*told(second))
    assert answered["stdout"].startswith("git version 2.")
    # It is the short answer that chat hosts get.
    assert not {"stderr", "timed_out", "environment", "command", "cleanup"} & answered.keys()


@pytest.mark.guest
def test_what_a_model_gets_wrong_goes_back_to_it(environ: dict[str, str]) -> None:
    script = [
        says("I would call vm_run."),
        calls(GIT, name="run_vm"),
        calls({"environment": "debian:12"}, {**GIT, "colour": "red"}),
        calls("not json", ["a"], None),
        calls({**GIT, "environment": "debian:99"}),
        calls(json.dumps({**GIT, "command": "exit 3"})),
        says(""),
    ]
    with ScriptedOllama(script) as ollama:
        done = demo(ollama.url, environ, "--json")
    shown = json.loads(done.stdout)
    assert done.returncode == 0
    assert [one["exit_code"] for one in shown["commands"]] == [3]
    answers = told(ollama.chats[-1])
    for answered, expected in zip(
        answers,
        (
            "no such tool",
            "command",
            "'colour'",
            "JSON object",
            "JSON object",
            "JSON object",
            "debian:99",
            '"exit_code": 3',
        ),
        strict=True,
    ):
        assert expected in answered
    (nudge,) = [one for one in ollama.chats[-1]["messages"] if one["role"] == "user"][1:]
    assert "vm_run" in nudge["content"]


@pytest.mark.guest
def test_quiet_is_one_line_and_verbose_shows_the_messages(environ: dict[str, str]) -> None:
    evil = {**says("done \x1b[2J"), "thinking": "hm"}
    with ScriptedOllama([{**calls(GIT), "thinking": "let me see"}, evil]) as ollama:
        quiet = demo(ollama.url, environ, "--quiet")
        ollama.chats.clear()
        verbose = demo(ollama.url, environ, "--verbose")
    assert len(quiet.stdout.splitlines()) == 1
    assert quiet.stdout.startswith("done    qwen3:8b ran 1 command")
    assert "let me see" in verbose.stdout
    assert "\x1b" not in verbose.stdout
    assert verbose.stdout.count("\nmessage {") == 4


@pytest.mark.guest
def test_a_model_that_calls_and_calls_and_never_answers_has_not_done_it(environ: dict[str, str]) -> None:
    with ScriptedOllama([calls({**GIT, "command": "true"})]) as ollama:
        done = demo(ollama.url, environ)
    assert done.returncode == Unsupported.exit_code
    assert "in 8 rounds qwen3:8b ran 8 commands and never answered" in done.stderr
    assert "done" not in done.stdout
    assert len(ollama.chats) == 8


def test_a_model_that_never_calls_ends_the_demo_and_starts_no_node(nowhere: dict[str, str]) -> None:
    with ScriptedOllama([says("git is nice")]) as ollama:
        done = demo(ollama.url, nowhere, "--quiet")
    assert done.returncode == Unsupported.exit_code
    assert "in 8 rounds qwen3:8b never called vm_run" in done.stderr
    assert "ollama pull" in done.stderr
    assert len(ollama.chats) == 8
    assert not Path(nowhere["PYRO_STATE_DIR"]).exists()


def test_a_model_that_never_learns_ends_it_with_what_was_wrong(nowhere: dict[str, str]) -> None:
    with ScriptedOllama([calls(*[{"environment": "debian:12"}] * 9)]) as ollama:
        done = demo(ollama.url, nowhere)
    assert done.returncode == Unsupported.exit_code
    assert "could not call vm_run; last: Not run: call the tool at most 4 times at once." in done.stderr
    assert len(ollama.chats) == 8
    assert len(told(ollama.chats[1])) == 9


def test_the_latest_model_that_takes_tools_is_chosen(nowhere: dict[str, str]) -> None:
    models = {"gemma:2b": ["completion"], "able:1b": ["completion", "tools"], "qwen3:8b": ["tools"]}
    with ScriptedOllama([says("no")], models) as ollama:
        assert "in 8 rounds able:1b" in demo(ollama.url, nowhere).stderr
        named = demo(ollama.url, nowhere, "--model", "gemma:2b")
        assert named.returncode == Unsupported.exit_code
        assert "cannot use gemma:2b: it does not call tools" in named.stderr
        del ollama.models["able:1b"], ollama.models["qwen3:8b"]
        none = demo(ollama.url, nowhere)
        assert none.returncode == NotFound.exit_code
        assert "none of the installed models calls tools" in none.stderr
        ollama.models.clear()
        assert "no model is installed" in demo(ollama.url, nowhere).stderr


def test_a_model_that_is_not_installed_is_named_with_those_that_are(nowhere: dict[str, str]) -> None:
    with ScriptedOllama([]) as ollama:
        done = demo(ollama.url, nowhere, "--model", "llama9")
    assert done.returncode == NotFound.exit_code
    assert "`ollama pull llama9`" in done.stderr
    assert "Installed: qwen3:8b" in done.stderr


def test_no_server_there(nowhere: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    done = demo(url, nowhere, "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == error["exit_code"] == MissingDependency.exit_code
    assert error["message"] == f"cannot reach Ollama at {url}: Connection refused"
    assert "`ollama serve`" in error["hint"]


def test_options_before_the_word_hold(nowhere: dict[str, str], tmp_path: Path) -> None:
    with ScriptedOllama([says("no")]) as ollama:
        words = ["demo", "--json", "--environment", "debian:12-base", "ollama", "--base-url", ollama.url]
        done = subprocess.run([*PYRO, *words], env=nowhere, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["error"]["code"] == "unsupported"
    assert "debian:12-base" in ollama.chats[0]["messages"][0]["content"]
    assert demo("x", nowhere, "--timeout-seconds", "0").returncode == InvalidArgument.exit_code
    assert demo("x", nowhere, "--quiet", "--verbose").returncode == InvalidArgument.exit_code


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (lambda handler: answer(handler, 200, b"<html>"), ProtocolError, "not JSON"),
        (lambda handler: answer(handler, 200, b'{"message"'), ProtocolError, "not JSON"),
        (lambda handler: answer(handler, 200, b"\xff"), ProtocolError, "not JSON"),
        (lambda handler: answer(handler, 200, []), ProtocolError, "no JSON object"),
        (lambda handler: answer(handler, 200, {"done": True}), ProtocolError, "no message"),
        (lambda handler: answer(handler, 200, {"message": "hello"}), ProtocolError, "no message"),
        (lambda handler: answer(handler, 200, {"message": {"tool_calls": {}, "content": ""}}), None, ""),
        (lambda handler: answer(handler, 200, {"message": {"tool_calls": {"a": 1}}}), ProtocolError, "no message"),
        (lambda handler: answer(handler, 200, b" " * (ANSWER_BYTES + 2)), ProtocolError, "more than"),
        (lambda handler: answer(handler, 200, {"error": "out of memory"}), PyroError, "200: out of memory"),
        (lambda handler: answer(handler, 500, {"error": "out of memory"}), PyroError, "500: out of memory"),
        (lambda handler: answer(handler, 502, b"<html>bad gateway"), PyroError, "it answered 502"),
        (lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n"), MissingDependency, "cannot reach"),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), MissingDependency, "cannot reach"),
    ],
)
def test_what_is_no_answer_is_told_as_such(reply: Any, kind: Any, words: str) -> None:
    with ScriptedOllama([reply]) as ollama:
        server = Ollama(ollama.url, 30)
        if kind is None:
            assert server.chat("qwen3:8b", [], [])["role"] == "assistant"
            return
        with pytest.raises(kind, match=words) as caught:
            server.chat("qwen3:8b", [], [])
    assert caught.value.hint


def test_a_slow_model_is_waited_for_as_long_as_was_said() -> None:
    over = threading.Event()

    def late(handler: Any) -> None:
        over.wait(30)

    with ScriptedOllama([late]) as ollama:
        with pytest.raises(TimedOut, match=r"none came within 0\.2 s"):
            Ollama(ollama.url, 0.2).chat("qwen3:8b", [], [])
        over.set()


def test_a_proxy_is_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ScriptedOllama([]) as ollama:
        assert Ollama(ollama.url, 30).models() == ["qwen3:8b"]


def test_a_server_of_another_kind_is_not_taken_for_a_missing_model() -> None:
    with ScriptedOllama([]) as ollama, pytest.raises(PyroError, match="answered 404") as caught:
        Ollama(f"{ollama.url}/v1", 30).chat("qwen3:8b", [], [])
    assert "without a path" in str(caught.value.hint)


@pytest.mark.parametrize("address", ["127.0.0.1:11434", "http://127.0.0.1:11434/", "localhost", "https://[::1]:1"])
def test_an_address_may_be_written_short(address: str) -> None:
    assert Ollama(address, 1).base_url.startswith(("http://", "https://"))
    assert not Ollama(address, 1).base_url.endswith("/")


@pytest.mark.parametrize(
    "address", ["", "http://", "ftp://x", "http://[", "http://a b", "http://x:99999", "http://x\n"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument, match="as an address"):
        Ollama(address, 1)
