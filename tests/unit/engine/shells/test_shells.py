"""The shell verbs over a real agent on the host: what is refused, what is masked, and what outlives the node."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleetlab import CallRecorder, engine_at

from pyro_mcp.api import shell, workspace
from pyro_mcp.engine.agent import AgentClient
from pyro_mcp.engine.engine import Engine
from pyro_mcp.engine.shells import manager as shells
from pyro_mcp.errors import Cancelled, Conflict, InvalidArgument, NotFound, ProtocolError, PyroError
from pyro_mcp.model.shell import ShellRead
from pyro_mcp.node.adopt import reconcile

REF = "w"
SECRET = "s3cret-välue-of-the-token"


def a_workspace(state_dir: Path) -> Engine:
    engine = engine_at(state_dir)
    workspace.create_workspace.function(
        CallRecorder(engine).call,
        environment="debian:12",
        name=REF,
        mem_mib=128,
        allow_host_compat=True,
        secrets={"TOKEN": SECRET},
    )
    return engine


class Lab:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.recorder = CallRecorder(engine)

    def do(self, verb: str, *args: Any, **params: Any) -> Any:
        """As the node does it: validated, encoded, decoded."""
        operation = getattr(shell, verb)
        names = [field.name for field in operation.fields if field.positional]
        given = {**dict(zip(names, (REF, *args), strict=False)), **params}
        return operation.result(operation.answer(self.recorder.call, given))

    def open(self, **params: Any) -> str:
        """A shell without prompt and echo."""
        shell_id: str = self.do("open_shell", **params).shell_id
        quiet = "PS1= PS2=; stty -echo; bind 'set enable-bracketed-paste off'; echo re''ady"
        self.do("write_shell", shell_id, input=quiet)
        self.until(shell_id, "ready\r\n")
        return shell_id

    def until(self, shell_id: str, pattern: str, *, cursor: int = 0, **params: Any) -> ShellRead:
        """Wait until what was said since `cursor` matches."""
        deadline = time.monotonic() + 60
        while True:
            read: ShellRead = self.do("read_shell", shell_id, cursor=cursor, **params)
            if re.search(pattern, read.output):
                return read
            assert time.monotonic() < deadline, read.output
            self.do("read_shell", shell_id, cursor=read.next_cursor, wait_seconds=1)

    def end(self, shell_id: str) -> int:
        return int(self.do("read_shell", shell_id).next_cursor)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    engine = a_workspace(tmp_path / "state")
    yield Lab(engine)
    engine.lifecycle.delete(REF)
    engine.close()


def test_a_shell_from_open_to_close(lab: Lab) -> None:
    opened = lab.do("open_shell", cols=100, rows=20)
    assert (opened.cols, opened.rows, opened.state, opened.exit_code, opened.ended_at) == (
        100,
        20,
        "running",
        None,
        None,
    )
    written = lab.do("write_shell", opened.shell_id, input="stty size; X=1")
    assert (written.input_length, written.append_newline) == (15, True)
    read = lab.until(opened.shell_id, r"20 100\r\n")
    assert (read.cursor, read.plain, read.missed_bytes, read.truncated) == (0, False, 0, False)
    lab.do("write_shell", opened.shell_id, input="echo x$X; exit ", append_newline=False)
    lab.do("write_shell", opened.shell_id, input="4")
    last = lab.do("read_shell", opened.shell_id, cursor=read.next_cursor, wait_for_idle_ms=10_000)
    assert "x1\r\n" in last.output
    assert (last.state, last.exit_code) == ("exited", 4)
    assert last.ended_at >= last.started_at
    assert [one.shell_id for one in lab.do("list_shells")] == [opened.shell_id]
    with pytest.raises(Conflict, match="it has exited with code 4"):
        lab.do("write_shell", opened.shell_id, input="more")
    closed = lab.do("close_shell", opened.shell_id)
    assert (closed.closed, closed.already_closed, closed.exit_code) == (True, False, 4)
    again = lab.do("close_shell", opened.shell_id)
    assert (again.closed, again.already_closed, again.state) == (True, True, "closed")


@pytest.mark.parametrize(
    ("verb", "params", "error", "words"),
    [
        ("open_shell", {"cols": 100_000}, InvalidArgument, "cols: expected 1 to 1000, got 100000"),
        ("resize_shell", {"rows": 0}, InvalidArgument, "rows: expected 1 to 1000, got 0"),
        ("open_shell", {"cwd": "/no/such"}, InvalidArgument, "working directory /no/such"),
        ("open_shell", {"secret_env": ["NONE"]}, NotFound, "cannot use the secret 'NONE'"),
        ("read_shell", {}, NotFound, "there is none of that id"),
        ("write_shell", {"input": "x"}, NotFound, "there is none of that id"),
        ("write_shell", {"input": "a\0b"}, InvalidArgument, "input: it contains a NUL"),
        ("write_shell", {"input": "", "append_newline": False}, InvalidArgument, "there is nothing to write"),
        ("write_shell", {"input": "\ud800"}, InvalidArgument, "not valid Unicode"),
        ("signal_shell", {"signal_name": "NOPE"}, InvalidArgument, "there is no signal 'NOPE'"),
        ("signal_shell", {}, NotFound, "there is none of that id"),
        ("close_shell", {}, NotFound, "there is none of that id"),
        ("attach_shell", {}, NotFound, "there is none of that id"),
    ],
)
def test_refusals(lab: Lab, verb: str, params: dict[str, Any], error: type[PyroError], words: str) -> None:
    args = () if verb == "open_shell" else ("sh-0123456789ab",)
    with pytest.raises(error, match=re.escape(words)) as caught:
        lab.do(verb, *args, **params)
    assert caught.value.hint or "NUL" in words or "nothing" in words or "Unicode" in words
    if "signal" in words:
        assert "INT" in (caught.value.hint or "")


def test_a_relative_directory_is_below_the_workspace(lab: Lab) -> None:
    first = lab.do("open_shell")
    lab.do("write_shell", first.shell_id, input="mkdir -p a/b; echo ma''de")
    lab.until(first.shell_id, "made")
    opened = lab.do("open_shell", cwd="a/b")
    assert opened.cwd == first.cwd + "/a/b"
    lab.do("write_shell", opened.shell_id, input="basename $PWD")
    lab.until(opened.shell_id, r"[\r\n]b\r")
    with pytest.raises(InvalidArgument, match=r"working directory .*/nowhere"):
        lab.do("open_shell", cwd="nowhere")


def test_a_shell_has_the_variables_that_it_was_opened_with(lab: Lab) -> None:
    opened = lab.do("open_shell", env={"GIVEN": "two words", "PATH": "/usr/bin:/bin:/own"})
    lab.do("write_shell", opened.shell_id, input='echo "[$GIVEN] $PATH"; sh -c \'echo "($GIVEN)"\'')
    lab.until(opened.shell_id, r"\[two words\] \S*:/own\r\n\(two words\)")
    with pytest.raises(InvalidArgument, match="a name is a letter"):
        lab.do("open_shell", env={"A-B": "x"})


def test_ids_have_a_form(lab: Lab) -> None:
    for bad in ("../x", "sh-1", "", "sh-0123456789ab\n"):
        with pytest.raises(InvalidArgument, match="shell_id"):
            lab.do("read_shell", bad)


def test_a_cursor_beyond_the_end_is_refused(lab: Lab) -> None:
    shell_id = lab.open()
    with pytest.raises(InvalidArgument, match="it has said"):
        lab.do("read_shell", shell_id, cursor=1_000_000)


def test_characters_survive_any_cut(lab: Lab) -> None:
    shell_id = lab.open()
    at = lab.end(shell_id)
    lab.do("write_shell", shell_id, input="for i in 1 2 3 4 5 6 7 8 9; do printf 'aé€😀'; done; echo .")
    lab.until(shell_id, r"\.", cursor=at)
    text = ""
    while not text.endswith("\n"):
        read = lab.do("read_shell", shell_id, cursor=at, max_chars=1)
        assert not read.encoding_lossy
        assert len(read.output) <= 4
        text, at = text + read.output, read.next_cursor
    assert text == "aé€😀" * 9 + ".\r\n"
    lab.do("write_shell", shell_id, input="printf '\\377.'; echo")
    read = lab.until(shell_id, r"\.\r\n", cursor=at)
    assert (read.output, read.encoding_lossy) == ("\ufffd.\r\n", True)


def test_more_and_missed_are_told(lab: Lab) -> None:
    shell_id = lab.open()
    at = lab.end(shell_id)
    lab.do("write_shell", shell_id, input="head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end")
    deadline = time.monotonic() + 30
    while lab.do("read_shell", shell_id, max_chars=1, cursor=at).missed_bytes < 3_000_000 - 1_200_000:
        assert time.monotonic() < deadline
    read = lab.do("read_shell", shell_id, cursor=at, max_chars=1000, wait_for_idle_ms=300)
    assert read.missed_bytes > 1_000_000
    assert (read.truncated, read.more, read.output) == (True, True, "x" * 1000)
    assert read.next_cursor == at + read.missed_bytes + 1000


def test_plain_is_what_a_person_sees_and_only_what_is_new(lab: Lab) -> None:
    shell_id = lab.open()
    at = lab.end(shell_id)
    lab.do("write_shell", shell_id, input=r"printf '10%%\r 50%%\r100%%\n\033[1;31m日本\033[0m\033]0;t\007\n> '")
    read = lab.until(shell_id, "> ", cursor=at, plain=True)
    assert read.output == "100%\n日本\n> "
    lab.do("write_shell", shell_id, input="echo new")
    assert lab.until(shell_id, "new", cursor=read.next_cursor, plain=True).output == "new\n"


def test_waiting_for_idle_ends_when_the_command_has(lab: Lab) -> None:
    shell_id = lab.open()
    at = lab.end(shell_id)
    lab.do("write_shell", shell_id, input="for i in 1 2 3; do echo $i; sleep 0.05; done")
    assert lab.do("read_shell", shell_id, cursor=at, wait_for_idle_ms=1000).output == "1\r\n2\r\n3\r\n"
    lab.do("write_shell", shell_id, input="yes")
    begun = time.monotonic()
    lab.do("read_shell", shell_id, cursor=lab.end(shell_id), wait_for_idle_ms=1000, wait_seconds=1, max_chars=10**6)
    assert time.monotonic() - begun < 50
    assert lab.do("signal_shell", shell_id, signal_name="sigint").signal_name == "INT"


# -- secrets


def test_secrets_reach_the_shell_and_never_a_reader(lab: Lab) -> None:
    shell_id = lab.open(secret_env=["TOKEN=KEY"])
    at = lab.end(shell_id)
    lab.do("write_shell", shell_id, input='echo "${#KEY} <$KEY>"; echo "$KEY" | base64 -w0; echo; echo done')
    read = lab.until(shell_id, "done", cursor=at)
    assert f"{len(SECRET)} <[secret]>" in read.output
    assert "[secret]" in read.output.splitlines()[1]
    for cursor in range(at, read.next_cursor):
        page = lab.do("read_shell", shell_id, cursor=cursor, max_chars=7)
        assert_hidden(page.output)
    assert_hidden(lab.do("read_shell", shell_id, cursor=at, plain=True).output)


def assert_hidden(text: str) -> None:
    for length in (6, len(SECRET)):
        assert SECRET[:length] not in text
        assert SECRET[-length:] not in text


def test_a_secret_said_in_two_parts_is_masked(lab: Lab) -> None:
    shell_id = lab.open(secret_env=["TOKEN"])
    at = lab.end(shell_id)
    lab.do("write_shell", shell_id, input='printf "<${TOKEN:0:9}"; read go; printf "${TOKEN:9}>\\n"; echo done')
    first = lab.until(shell_id, "<", cursor=at)
    assert first.output == "<"
    lab.do("write_shell", shell_id, input="go")
    assert lab.until(shell_id, "done", cursor=first.next_cursor).output.startswith("[secret]>")


def test_an_attached_person_sees_no_secret_either(lab: Lab) -> None:
    shell_id = lab.open(secret_env=["TOKEN"])
    recorder, keys = CallRecorder(lab.engine), Keys()
    person = attach(lab, recorder, shell_id, keys)
    keys.press(b'printf "<${TOKEN:0:9}"; sleep 0.5; printf "${TOKEN:9}>"; echo do\'\'ne\r')
    wait_for(recorder, b"done")
    keys.leave()
    person.join(60)
    shown = recorder.output[1].decode()
    assert "[secret]>" in shown
    assert SECRET[:4] not in shown.replace("${TOKEN", "")
    assert SECRET[-4:] not in shown


# -- attaching


class Keys:
    """What a person types, as an iterable."""

    def __init__(self) -> None:
        self._pressed: list[bytes] = []
        self._over = False
        self._news = threading.Condition()

    def press(self, data: bytes) -> None:
        with self._news:
            self._pressed.append(data)
            self._news.notify()

    def leave(self) -> None:
        with self._news:
            self._over = True
            self._news.notify()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._pressed or self._over)
                if not self._pressed:
                    return
                piece = self._pressed.pop(0)
            yield piece


def attach(lab: Lab, recorder: CallRecorder, shell_id: str, keys: Keys, **params: Any) -> Person:
    recorder.call.read = lambda: keys
    return Person(lab, recorder, shell_id, params)


class Person(threading.Thread):
    def __init__(self, lab: Lab, recorder: CallRecorder, shell_id: str, params: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.answer: dict[str, Any] = {}
        self.error: PyroError | None = None
        self._run = lambda: shell.attach_shell.answer(
            recorder.call, {"workspace_id": REF, "shell_id": shell_id, "stdin": True, **params}
        )
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._run()
        except PyroError as error:
            self.error = error


def wait_for(recorder: CallRecorder, text: bytes, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while text not in recorder.output[1]:
        assert time.monotonic() < deadline, recorder.output[1][-500:]
        recorder.wrote.wait(0.1)
        recorder.wrote.clear()


def test_a_person_attaches_leaves_and_comes_back(lab: Lab) -> None:
    shell_id = lab.open()
    lab.do("write_shell", shell_id, input="echo before")
    lab.until(shell_id, "before")
    recorder, keys = CallRecorder(lab.engine), Keys()
    person = attach(lab, recorder, shell_id, keys)
    wait_for(recorder, b"before\r\n")
    keys.press(b"echo $((40+2))\r")
    wait_for(recorder, b"42\r\n")
    keys.leave()
    person.join(60)
    assert (person.answer["detached"], person.answer["state"]) == (True, "running")
    recorder, keys = CallRecorder(lab.engine), Keys()
    person = attach(lab, recorder, shell_id, keys, cursor=0)
    wait_for(recorder, b"42\r\n")
    keys.press(b"exit 6\r")
    person.join(60)
    assert (person.answer["detached"], person.answer["exit_code"], person.answer["missed_bytes"]) == (False, 6, 0)


def test_from_each_position_told_the_rest_is_what_was_shown_after_it(lab: Lab) -> None:
    shell_id = lab.open(secret_env=["TOKEN=KEY"])
    recorder, keys = CallRecorder(lab.engine), Keys()
    told: list[tuple[int, int]] = []
    recorder.call.emit_position = lambda cursor: told.append((cursor, len(recorder.output[1])))
    person = attach(lab, recorder, shell_id, keys, cursor=0)
    for line, answer in (
        (b"echo o''ne $KEY\r", b"one"),
        (b"printf %.9s $KEY; sleep 0.3; echo; echo $KEY$KEY tw''o\r", b"two"),
        (b"exit\r", b""),
    ):
        keys.press(line)
        wait_for(recorder, answer)
    person.join(60)
    whole = recorder.output[1]
    assert whole.count(b"[secret]") == 3
    assert len(told) > 4
    for cursor, shown in told:
        again = CallRecorder(lab.engine)
        attach(lab, again, shell_id, Keys(), cursor=cursor).join(10)
        assert again.output[1] == whole[shown:], (cursor, shown)


def test_a_client_that_vanishes_leaves_the_shell(lab: Lab) -> None:
    shell_id = lab.open()
    recorder, keys = CallRecorder(lab.engine), Keys()
    person = attach(lab, recorder, shell_id, keys)
    wait_for(recorder, b"ready")
    recorder.call.cancel()
    person.join(60)
    assert person.error is not None
    assert person.error.code == "cancelled"
    assert lab.do("list_shells").shells[0].state == "running"
    keys.leave()


# -- life


def test_a_client_that_vanishes_as_its_shell_opens_leaves_none(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    request = AgentClient.request

    def crossed(self: AgentClient, call: Any, verb: str, params: dict[str, Any], kind: type, **given: Any) -> Any:
        answer = request(self, call, verb, params, kind, **given)
        if verb == "shell_open":
            call.cancel()
            call.check()
        return answer

    monkeypatch.setattr(AgentClient, "request", crossed)
    with pytest.raises(Cancelled):
        lab.do("open_shell")
    lab.recorder = CallRecorder(lab.engine)
    assert [one.state for one in lab.do("list_shells")] == ["closed"]


def test_a_close_is_seen_through_when_the_client_vanishes(lab: Lab) -> None:
    shell_id = lab.open()
    lab.recorder.call.cancel()
    assert lab.do("close_shell", shell_id).closed


def test_shells_outlive_the_node_with_what_they_said(tmp_path: Path) -> None:
    engine = a_workspace(tmp_path / "state")
    lab = Lab(engine)
    shell_id = lab.open(secret_env=["TOKEN"])
    lab.do("write_shell", shell_id, input="A=kept; sleep 1; echo wh''ile away")
    engine.close()
    again = engine_at(tmp_path / "state")
    reconcile(again)
    lab = Lab(again)
    assert lab.do("list_shells").shells[0].shell_id == shell_id
    lab.until(shell_id, "while away")
    lab.do("write_shell", shell_id, input="echo $A; echo $TOKEN")
    assert "[secret]" in lab.until(shell_id, r"kept\r\n.*\n").output
    again.lifecycle.delete(REF)
    again.close()


def test_shells_end_with_the_machine(lab: Lab) -> None:
    shell_id = lab.open()
    lab.engine.lifecycle.stop(REF)
    assert lab.do("list_shells").count == 0
    with pytest.raises(Conflict, match="it is stopped"):
        lab.do("read_shell", shell_id)
    lab.engine.lifecycle.start(lab.recorder.call, REF)
    with pytest.raises(NotFound, match="none of that id"):
        lab.do("read_shell", shell_id)
    shell_id = lab.open()
    lab.engine.snapshots.reset(lab.recorder.call, REF, "baseline")
    assert lab.do("list_shells").count == 0


def test_using_a_shell_is_activity(lab: Lab) -> None:
    shell_id = lab.open()
    before = lab.engine.lifecycle.status(REF).last_activity_at
    time.sleep(0.01)
    lab.do("read_shell", shell_id)
    assert lab.engine.lifecycle.status(REF).last_activity_at == before
    lab.do("write_shell", shell_id, input=":")
    assert lab.engine.lifecycle.status(REF).last_activity_at > before


# -- an agent that lies

FACTS = {
    "shell_id": "sh-0123456789ab",
    "cwd": "/",
    "cols": 80,
    "rows": 24,
    "state": "running",
    "started_ms": 0,
    "ended_ms": None,
    "exit_code": None,
    "oldest": 0,
    "end": 3,
    "cursor": 0,
    "start": 0,
}


@pytest.mark.parametrize(
    "lie",
    [
        *({"cols": 0}, {"cols": 10**6}, {"state": "dancing"}, {"started_ms": 1 << 70}, {"started_ms": -1}),
        *({"exit_code": 999}, {"end": -1}, {"end": 1 << 63}, {"start": 5}, {"oldest": 2, "start": 3}, {"end": 1}),
        *({"cwd": "x" * 10_000}, {"shell_id": None}, {"cursor": 9}),
    ],
)
def test_a_lie_is_a_typed_error(lab: Lab, monkeypatch: pytest.MonkeyPatch, lie: dict[str, Any]) -> None:
    def told(self: AgentClient, call: Any, verb: str, params: Any, kind: Any, **more: Any) -> Any:
        more["on_data"](b"abc")
        return shells.checked(verb, {**FACTS, **lie}, kind)

    monkeypatch.setattr(AgentClient, "request", told)
    with pytest.raises(ProtocolError):
        lab.do("read_shell", "sh-0123456789ab")


def test_an_agent_that_sends_too_much_is_stopped(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(self: AgentClient, call: Any, verb: str, params: Any, kind: Any, **more: Any) -> Any:
        for _ in range(10_000):
            more["on_data"](b"x" * 65536)
        raise AssertionError

    monkeypatch.setattr(AgentClient, "request", told)
    with pytest.raises(ProtocolError, match="more than was asked for"):
        lab.do("read_shell", "sh-0123456789ab", max_chars=10)
