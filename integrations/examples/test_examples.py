"""The examples for other packages run: each with the real package, a scripted model and a real guest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_openai import ScriptedOpenAI, Step

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ENDS = "+git version 2."


def run(name: str, steps: list[Step], environ: dict[str, str]) -> tuple[str, ScriptedOpenAI]:
    with ScriptedOpenAI(steps) as model:
        command = [sys.executable, str(EXAMPLES / name)]
        environ = {**environ, **model.environ}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, model


def test_the_responses_loop_works_and_tells_the_model_its_mistakes(environ: dict[str, str]) -> None:
    write = {"command": "git --version | tee version.txt"}
    steps: list[Step] = [("run", "not json"), ("run", {"line": "x"}), ("run", {"command": "exit 3"}), ("run", write)]
    shown, model = run("openai_responses_tool_loop.py", steps, environ)
    assert shown.startswith("done\n")
    assert ENDS in shown
    answers = [json.loads(answer) for answer in model.answers]
    assert ["error" in answer for answer in answers] == [True, True, False, False]
    assert [answer.get("exit_code") for answer in answers] == [None, None, 3, 0]


@pytest.mark.parametrize("name", ["langchain_tools.py", "pydantic_ai_tools.py"])
def test_an_adapter_works_and_tells_the_model_its_mistakes(name: str, environ: dict[str, str]) -> None:
    steps: list[Step] = [
        ("read_file", {"path": "../etc/passwd"}),
        ("run", {"command": "git --version | tee version.txt; exit 3"}),
        ("read_file", {"path": "version.txt"}),
        ("write_file", {"path": "more.txt", "text": "more\n"}),
    ]
    shown, model = run(name, steps, environ)
    assert shown.startswith("done\n")
    assert ENDS in shown
    assert "+more" in shown
    assert model.tools == ["run", "read_file", "write_file"]
    refused, ran, read, written = model.answers
    assert "cannot read" in refused
    assert json.loads(ran)["exit_code"] == 3
    assert read.startswith("git version 2.")
    assert written == "5 bytes written"
