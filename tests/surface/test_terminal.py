"""`pyro` at a real terminal and in a real pipeline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

from pyro_mcp import Pyro

pytestmark = pytest.mark.guest

PYRO = [sys.executable, "-m", "pyro_mcp"]


def pyro(environ: dict[str, str], *words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*PYRO, *words], env=environ, capture_output=True, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


def machines(environ: dict[str, str]) -> int:
    answer = pyro(environ, "node", "status", "--json")
    return int(json.loads(answer.stdout)["machine_count"] or 0)


def at_terminal(environ: dict[str, str], *words: str) -> pexpect.spawn:
    return pexpect.spawn(PYRO[0], [*PYRO[1:], *words], env=environ, timeout=120, encoding="utf-8")  # type: ignore[arg-type]


def test_a_pipe_gets_the_bytes_as_they_are(environ: dict[str, str]) -> None:
    done = pyro(environ, "run", "debian:12", "--", "printf", r"\033]0;x\007\377\000end")
    assert done.stdout == b"\x1b]0;x\x07\xff\x00end"
    assert done.returncode == 0


def test_a_terminal_gets_colours_and_no_commands(environ: dict[str, str]) -> None:
    child = at_terminal(environ, "run", "debian:12", "--", "printf", r"\033]0;evil\007\033[31mred\033[0m\033[2Jend\n")
    text = child.read()
    child.close()
    assert "\x1b[31mred\x1b[0mend" in text
    assert "evil" not in text
    assert "\x1b[2J" not in text
    assert child.exitstatus == 0


def test_output_shows_as_it_comes(environ: dict[str, str]) -> None:
    child = at_terminal(environ, "run", "debian:12", "--", "sh", "-c", "echo first; sleep 3; echo last")
    child.expect("first")
    seen = time.monotonic()
    child.expect("last")
    assert time.monotonic() - seen > 2
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_machine(environ: dict[str, str], number: int, code: int) -> None:
    child = at_terminal(environ, "run", "debian:12", "--timeout-seconds", "300", "--", "sh", "-c", "echo up; sleep 200")
    child.expect("up")
    begun = time.monotonic()
    child.kill(number)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == code
    assert time.monotonic() - begun < 50
    assert machines(environ) == 0


def test_a_reader_that_leaves_ends_the_command(environ: dict[str, str]) -> None:
    child = subprocess.Popen([*PYRO, "run", "debian:12", "--", "yes"], env=environ, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.read(4) == b"y\ny\n"
    child.stdout.close()
    assert child.wait(30) == 141
    assert machines(environ) == 0


def test_standard_input_is_forwarded_when_asked_for(environ: dict[str, str]) -> None:
    payload = os.urandom(3_000_000)
    assert pyro(environ, "run", "debian:12", "-i", "--", "cat", input=payload).stdout == payload
    assert pyro(environ, "run", "debian:12", "--", "cat", input=b"secret").stdout == b""


def test_a_hundred_megabytes_pass_through(environ: dict[str, str]) -> None:
    script = "head -c 100000000 /dev/zero"
    done = pyro(environ, "run", "debian:12", "--timeout-seconds", "100", "--", "sh", "-c", script)
    assert len(done.stdout) == 100_000_000
    assert done.returncode == 0


def test_a_node_that_is_killed_is_told_and_replaced(environ: dict[str, str]) -> None:
    child = at_terminal(environ, "run", "debian:12", "--", "sh", "-c", "echo up; sleep 100")
    child.expect("up")
    node = json.loads(pyro(environ, "node", "status", "--json").stdout)["pid"]
    os.kill(node, signal.SIGKILL)
    child.expect("connection to the node was lost")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 73
    assert machines(environ) == 0


def test_a_node_that_is_told_to_end_says_so_and_its_log_who_asked(environ: dict[str, str]) -> None:
    child = at_terminal(environ, "run", "debian:12", "--", "sh", "-c", "echo up; sleep 100")
    child.expect("up")
    node = json.loads(pyro(environ, "node", "status", "--json").stdout)["pid"]
    os.kill(node, signal.SIGTERM)
    child.expect(r"the node was stopped: it got signal 15 \(SIGTERM\)")
    child.expect(pexpect.EOF)
    child.close()
    log = Path(environ["PYRO_STATE_DIR"]) / "node.log"
    assert str(log) in child.before.replace("\r\n", "")
    assert "killed" not in child.before
    assert child.exitstatus == 73
    assert machines(environ) == 0
    assert "leaving: it got signal 15 (SIGTERM)" in log.read_text()
    assert pyro(environ, "workspace", "list").returncode == 0, "the next command starts a node"
    stop = subprocess.Popen([sys.executable, "-m", "pyro_mcp", "node", "stop"], env=environ, stdout=subprocess.DEVNULL)
    assert stop.wait(60) == 0
    assert f"leaving: process {stop.pid} asked it to" in log.read_text()


def test_a_node_that_may_not_stop_names_the_workspaces(environ: dict[str, str]) -> None:
    assert pyro(environ, "workspace", "create", "debian:12", "--name", "mine").returncode == 0
    nameless = pyro(environ, "workspace", "create", "debian:12", "--id-only").stdout.decode().strip()
    try:
        refused = pyro(environ, "node", "stop")
        assert refused.returncode == 65
        assert b"workspace mine" in refused.stderr
        assert f"workspace {nameless}".encode() in refused.stderr
        assert b"vm-" not in refused.stderr
    finally:
        for one in ("mine", nameless):
            assert pyro(environ, "workspace", "delete", one).returncode == 0


def test_the_demo_shows_every_step(environ: dict[str, str]) -> None:
    done = pyro(environ, "demo")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    for word in ("run", "create", "start", "exec", "delete", "done"):
        assert f"\n{word} " in f"\n{text}"
    assert json.loads(pyro(environ, "demo", "--json").stdout)["ok"] is True
    assert machines(environ) == 0


def test_the_sdk_streams_and_keeps_machines_between_calls(environ: dict[str, str]) -> None:
    heard: list[tuple[int, bytes]] = []
    with Pyro(
        state_dir=environ["PYRO_STATE_DIR"],
        cache_dir=environ["PYRO_CACHE_DIR"],
        on_output=lambda tag, data: heard.append((tag, data)),
    ) as sdk:
        machine = sdk.create_vm("debian:12")
        assert machine.state == "created"
        assert sdk.start_vm(machine.vm_id).state == "started"
        assert sdk.status_vm(machine.vm_id).isolation
        assert sdk.network_info_vm(machine.vm_id).network_enabled is False
        result = sdk.exec_vm(machine.vm_id, command="cat; echo err >&2", stdin=b"in")
        assert (result.stdout, result.stderr) == ("in", "err\n")
        assert result.cleanup.deleted
        assert sorted(heard) == [(1, b"in"), (2, b"err\n")]
    assert machines(environ) == 0


def test_what_a_seed_lost_is_named_by_all_that_show_it(environ: dict[str, str], tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    seed.mkdir()
    for number in range(12):
        os.mkfifo(seed / f"pipe{number:02}")
    (seed / "su").write_text("x")
    (seed / "su").chmod(0o4755)
    made = pyro(environ, "workspace", "create", "debian:12", "--name", "lossy", "--seed-path", str(seed))
    status = pyro(environ, "workspace", "status", "lossy")
    reset = pyro(environ, "workspace", "reset", "lossy")
    for answer in (made, status, reset):
        text = answer.stdout.decode()
        assert f"{seed}: 1 entry, 1 B, 13 left out or altered" in text
        assert "left out or altered: pipe00: " in text
        assert "and 3 more (--json names them)" in text
        assert text.count("left out or altered: ") == 10
    assert " is reset to baseline: 1 entry, 1 B" in reset.stdout.decode()
    summary = pyro(environ, "workspace", "summary", "lossy").stdout.decode()
    assert f"seed       {seed}: 1 entry, 1 B; 13 left out or altered" in summary
    assert "pipe00: " in summary
    assert "and 9 more" in summary
    pyro(environ, "workspace", "delete", "lossy")
