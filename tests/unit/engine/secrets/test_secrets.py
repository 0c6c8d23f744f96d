"""Secrets: they reach the commands that ask for them, and no other place whatever happens."""

from __future__ import annotations

import base64
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from agentlab import Scripted
from fleetlab import CallRecorder, engine_at

from pyro_mcp.api import diff, export, service, shell, snapshot, workspace
from pyro_mcp.api import exec as workspace_exec
from pyro_mcp.api import file as files
from pyro_mcp.engine.cancel import SILENT
from pyro_mcp.engine.engine import Engine
from pyro_mcp.engine.secrets import store
from pyro_mcp.engine.secrets.store import MAX_BYTES, Values
from pyro_mcp.errors import InvalidArgument, MachineFailed, NotFound, PyroError
from pyro_mcp.operations.operation import Operation
from pyro_mcp.protocol.channel import Stream

CANARY = "c4nary/vèry+secret value"
FILED = "filed-canary-0123456789"


def forms(value: str) -> list[bytes]:
    data = value.encode()
    return [data, base64.b64encode(data).rstrip(b"="), data.hex().encode(), quote(value, safe="").encode()]


class Lab:
    """A workspace `w` with two secrets, spoken to as a node does."""

    def __init__(self, tmp_path: Path) -> None:
        self.state = tmp_path / "state"
        self.engine = engine_at(self.state)
        self.heard = b""
        source = tmp_path / "filed"
        source.write_text(FILED + "\n")
        secrets = {"TOKEN": CANARY}
        self.ask(
            workspace.create_workspace,
            environment="debian:12",
            name="w",
            allow_host_compat=True,
            secrets=secrets,
            secret_files={"FILED": str(source)},
        )
        source.unlink()

    def ask(self, verb: Operation[Any, Any], **params: Any) -> dict[str, Any]:
        recorder = CallRecorder(self.engine)
        try:
            with self.engine.secrets.hidden(params.get("workspace_id")) as masks:
                answer = masks.answer(verb.answer(recorder.call, params))
        except PyroError as error:
            self.heard += repr(error.to_wire()).encode()
            raise
        self.heard += msgspec.json.encode(answer) + recorder.output[1] + recorder.output[2]
        return answer

    def run(self, command: str | list[str], **params: Any) -> dict[str, Any]:
        return self.ask(workspace_exec.exec_workspace, workspace_id="w", command=command, **params)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.engine.lifecycle.delete("w")
    made.engine.close()


def test_a_command_gets_what_it_asks_for(lab: Lab) -> None:
    line = 'printf %s "$TOKEN" | wc -c; printf %s "$OTHER" | wc -c; echo "${FILED-none}"'
    done = lab.run(line, secret_env=["TOKEN", "FILED=OTHER"])
    assert done["stdout"].split() == [str(len(CANARY.encode())), str(len(FILED)), "none"]
    assert lab.run('echo "${TOKEN-none}"')["stdout"] == "none\n"
    assert lab.run("echo $T", secret_env={"TOKEN": "T"})["stdout"] == "[secret]\n"


def test_a_variable_is_not_given_twice(lab: Lab) -> None:
    for params in ({"secret_env": ["TOKEN"], "env": {"TOKEN": "x"}}, {"secret_env": {"FILED": "A"}, "env": {"A": ""}}):
        with pytest.raises(InvalidArgument, match="it is a variable and a secret"):
            lab.run("true", **params)
        with pytest.raises(InvalidArgument, match="it is a variable and a secret"):
            lab.ask(shell.open_shell, workspace_id="w", **params)
        with pytest.raises(InvalidArgument, match="it is a variable and a secret"):
            lab.ask(service.start_service, workspace_id="w", service_name="s", command="true", **params)
    assert lab.run('echo "$TOKEN $PLAIN"', secret_env=["TOKEN"], env={"PLAIN": "p"})["stdout"] == "[secret] p\n"


def test_a_secret_that_is_given_as_a_variable_or_a_directory_shows_nowhere_either(lab: Lab) -> None:
    lab.run('echo "$A"', env={"A": CANARY})
    lab.run(["mkdir", CANARY.replace("/", "_")])
    with pytest.raises(PyroError):
        lab.run("true", cwd=f"/workspace/{CANARY}")
    for verb in (workspace.status_workspace, workspace_exec.logs_workspace):
        lab.ask(verb, workspace_id="w")
    assert not any(form in lab.heard for form in forms(CANARY))
    kept = b"".join(path.read_bytes() for path in lab.state.glob("pyro.db*"))
    assert not any(form in kept for form in forms(CANARY))


def test_values_show_nowhere(lab: Lab) -> None:
    """Every operation, with the secret in every place it can get to from inside."""
    loud = (
        'echo "$TOKEN"; printf %.5s "$TOKEN"; sleep 0.1; printf %s "$TOKEN" | tail -c +6; echo "$TOKEN" >&2;'
        ' printf %s "$TOKEN" | base64 -w0; echo; printf "%s\\n" "$TOKEN" > in-file; exit 3'
    )
    assert lab.run(loud, secret_env=["TOKEN"])["exit_code"] == 3
    lab.run(["echo", CANARY])
    lab.run(f"echo '{FILED}'", wait_seconds=10)
    with pytest.raises(PyroError):
        lab.ask(files.read_workspace_file, workspace_id="w", path=f"/workspace/{CANARY}")
    for verb in (workspace.status_workspace, workspace_exec.logs_workspace, diff.diff_workspace):
        lab.ask(verb, workspace_id="w")
    assert lab.ask(files.read_workspace_file, workspace_id="w", path="in-file")["content"] == "[secret]\n"
    lab.ask(workspace_exec.logs_workspace, workspace_id="w", sequence=1, cursor="0:0")
    lab.ask(workspace.list_workspaces)
    leaks = [form for value in (CANARY, FILED) for form in forms(value)]
    assert [form for form in leaks if form in lab.heard] == []
    home = lab.engine.registry.directory(lab.engine.registry.find("w").workspace_id)
    for path in lab.state.rglob("*"):
        inside = path.is_relative_to(lab.state / "machines") or path.parent == home / "secrets"
        if path.is_file() and not inside:
            data = path.read_bytes()
            assert [form for form in leaks if form in data] == [], path


def test_values_are_in_no_process_listing(lab: Lab) -> None:
    lab.run("true", secret_env=["TOKEN", "FILED"])
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert CANARY.encode() not in process.read_bytes()
        except OSError:
            continue


def test_they_are_kept_apart_and_closed_to_others(lab: Lab) -> None:
    row = lab.engine.registry.find("w")
    home = lab.engine.registry.directory(row.workspace_id) / "secrets"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()} == {"TOKEN": 0o600, "FILED": 0o600}
    shown = lab.ask(workspace.status_workspace, workspace_id="w")["secrets"]
    assert shown == [{"name": "FILED", "source_kind": "file"}, {"name": "TOKEN", "source_kind": "literal"}]


def test_they_outlive_machine_and_node(lab: Lab) -> None:
    lab.run("true", secret_env=["TOKEN"])
    lab.engine.lifecycle.stop("w")
    call = CallRecorder(lab.engine).call
    lab.engine.lifecycle.start(call, "w")
    again = Engine(lab.engine.settings, lab.engine.database, drivers=lab.engine.drivers)
    assert again.secrets.masks(again.registry.find("w").workspace_id).text(CANARY) == "[secret]"
    assert lab.run('printf %s "$T" | wc -c', secret_env=["FILED=T"])["stdout"].strip() == str(len(FILED))


def test_a_reset_makes_them_again_from_what_was_kept(lab: Lab) -> None:
    lab.run("true", secret_env=["FILED"])
    lab.ask(snapshot.reset_workspace, workspace_id="w")
    done = lab.run('printf %s "$FILED" | wc -c; echo $FILED', secret_env=["FILED"])
    assert done["stdout"].split() == [str(len(FILED)), "[secret]"]


@pytest.mark.parametrize(
    ("secret_env", "says"),
    [
        (["NONE"], "has none of that name"),
        (["TOKEN=1X"], "an environment variable is"),
        (["a b"], "a name is"),
        (["TOKEN=A", "FILED=A"], "two secrets"),
    ],
)
def test_what_cannot_be_mapped_is_refused(lab: Lab, secret_env: list[str], says: str) -> None:
    with pytest.raises((InvalidArgument, NotFound), match=says):
        lab.run("true", secret_env=secret_env)
    assert lab.ask(workspace_exec.logs_workspace, workspace_id="w")["command_count"] == 0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("1A", CANARY, "a name is"),
        ("A" * 129, CANARY, "a name is"),
        ("A\n", CANARY, "a name is"),
        ("A", "abc", "fewer than 4"),
        ("A", "x" * (MAX_BYTES + 1), "at most"),
        ("A", "abc\0def", "NUL"),
        ("A", CANARY + "\udc80", "not valid Unicode"),
    ],
)
def test_what_cannot_be_a_secret_is_refused_without_telling_it(name: str, value: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        Values({name: value}, None)
    assert value not in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"), [("my-token", "my_token"), ("1A", "_1A"), ("", "_"), ("ß.x", "__x"), ("A" * 500, "A" * 100)]
)
def test_a_name_that_none_may_have_is_answered_with_one_that_is(name: str, nearest: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Values({name: CANARY}, None)
    assert caught.value.hint == f"Call it {nearest}"
    Values({nearest: CANARY}, None)


def test_files_that_cannot_be_secrets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfd\xfc")
    (tmp_path / "large").write_bytes(b"x" * (MAX_BYTES + 5))
    for name, says in (("absent", "there is no file"), ("binary", "not UTF-8"), ("large", "at most"), (".", "cannot")):
        with pytest.raises((InvalidArgument, NotFound), match=says):
            Values(None, {"A": str(tmp_path / name)})
    with pytest.raises(InvalidArgument, match="as a value and as a file"):
        Values({"A": CANARY}, {"A": str(tmp_path / "binary")})


def test_a_wrong_type_does_not_show_the_value() -> None:
    params = {"environment": "debian:12", "secrets": {"A": [CANARY]}}
    with pytest.raises(InvalidArgument) as caught:
        workspace.create_workspace.validate(params)
    assert CANARY not in str(caught.value)


def test_an_export_holds_what_the_workspace_does(lab: Lab, tmp_path: Path) -> None:
    """A file is the command's own doing; the secrets themselves are not below /workspace."""
    lab.run("echo plain > file")
    lab.ask(export.export_workspace, workspace_id="w", path="/workspace", output=str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["file"]


def test_one_that_is_overdue_is_cancelled_and_told_of_an_agent_that_lives(
    lab: Lab, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PUT_SECONDS", 0.05)
    monkeypatch.setattr(store, "PATIENCE_SECONDS", 0.2)
    cancelled, asked = threading.Event(), []

    def handler(stream: Stream) -> None:
        asked.append(stream)
        if len(asked) == 1:
            stream.on_cancel(cancelled.set)
            assert cancelled.wait(30)
        stream.result({})

    machine = scripted(handler).machine
    workspace_id = lab.engine.registry.find("w").workspace_id
    told = r"cannot hand over the secret TOKEN: the agent of vm-\w+ is alive and has not answered within 0.2 s"
    with pytest.raises(MachineFailed, match=told) as failed:
        lab.engine.secrets.deliver(workspace_id, machine, ["TOKEN"])
    assert failed.value.hint == SILENT
    assert cancelled.wait(30)
    assert not machine.channel.closed
    monkeypatch.undo()
    lab.engine.secrets.deliver(workspace_id, machine, ["TOKEN"])
    lab.engine.secrets.deliver(workspace_id, machine, ["TOKEN"])
    assert len(asked) == 2, "it was not taken for delivered, and is delivered once"
