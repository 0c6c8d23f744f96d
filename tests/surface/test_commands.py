"""Where a command runs, with which variables and input, and what reads a line: the same over SDK, CLI and MCP."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.guest

SLOW = 'for n in $(seq 40); do echo "line $n"; sleep 0.1; done'


@pytest.fixture(scope="module")
def place(environ: dict[str, str], speaking: Any) -> Iterator[str]:
    """One workspace for all surfaces."""
    maker = speaking("sdk", environ)
    maker.do("create_workspace", environment="debian:12", name="commands", secrets={"TOKEN": "canary-of-commands"})
    maker.do("exec_workspace", workspace_id="commands", command=["mkdir", "-p", "src/deep"])
    yield "commands"
    maker.do("delete_workspace", workspace_id="commands")
    maker.close()


def run(surface: Any, command: list[str], **given: Any) -> dict[str, Any]:
    """In the workspace. Words, because the command line takes nothing else."""
    done: dict[str, Any] = surface.do("exec_workspace", workspace_id="commands", command=command, **given)
    return done


def test_a_command_runs_where_and_with_what_it_is_told(surface: Any, place: str) -> None:
    env = {"A": "two words=1", "B": "line\nbreak", "PATH": "/usr/bin:/bin:/own"}
    show = ["sh", "-c", 'printf "%s|" "$PWD" "$A" "$B" "$PATH" "$HOME"']
    done = run(surface, show, cwd="src/deep", env=env)
    assert done["stdout"] == "/workspace/src/deep|two words=1|line\nbreak|/usr/bin:/bin:/own|/root|"
    assert done["cwd"] == "/workspace/src/deep"
    assert run(surface, ["pwd"], cwd="/etc")["stdout"] == "/etc\n"
    assert run(surface, ["pwd"])["cwd"] == "/workspace"
    once = surface.do("run_in_vm", environment="debian:12", command=show, cwd="/tmp", env=env)
    assert (once["stdout"].split("|")[:2], once["cwd"]) == (["/tmp", "two words=1"], "/tmp")
    assert surface.do("run_in_vm", environment="debian:12", command=["pwd"])["cwd"] == "/root"


def test_refusals_have_one_code_and_one_text(surface: Any, place: str) -> None:
    for verb, given in (
        ("exec_workspace", {"workspace_id": place}),
        ("run_in_vm", {"environment": "debian:12"}),
        ("start_service", {"workspace_id": place, "service_name": "s"}),
        ("open_shell", {"workspace_id": place}),
    ):
        what = {"open_shell": "open a shell", "start_service": "start s"}.get(verb, "run the command")
        where = "/root" if verb == "run_in_vm" else "/workspace"
        command = {} if verb == "open_shell" else {"command": ["true"]}
        for broken, words in (
            ({"cwd": "no such"}, f"cannot {what}: working directory {where}/no such: No such file or directory"),
            ({"cwd": "/etc/passwd"}, f"cannot {what}: working directory /etc/passwd: Not a directory"),
            ({"env": {"1A": "x"}}, "cannot set the variable '1A': a name is a letter or _, then up to 127"),
            ({"env": {"PYRO_SERVICE": "x"}}, "cannot set the variable PYRO_SERVICE: pyro sets it"),
            ({"env": {"A": "x" * 40_000}}, "cannot use env: it takes 40003 bytes, at most 32768 fit"),
        ):
            with pytest.raises(Exception, match=re.escape(words)) as caught:
                surface.do(verb, **given, **command, **broken)
            assert caught.value.code == "invalid_argument"  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="cannot set TOKEN: it is a variable and a secret"):
        run(surface, ["true"], env={"TOKEN": "x"}, secret_env=["TOKEN"])


def test_input_reaches_a_command(surface: Any, place: str) -> None:
    assert run(surface, ["cat"], stdin="é€\nno newline")["stdout"] == "é€\nno newline"
    assert run(surface, ["wc", "-c"], stdin="x" * 1_000_000)["stdout"] == "1000000\n"
    assert run(surface, ["cat"], stdin="")["stdout"] == ""
    assert run(surface, ["cat"])["stdout"] == ""
    assert surface.do("run_in_vm", environment="debian:12", command=["tr", "a", "b"], stdin="aa")["stdout"] == "bb"


def test_a_line_is_for_bash(surface: Any, place: str) -> None:
    if not hasattr(surface, "_client") and not hasattr(surface, "_pyro"):
        pytest.skip("the command line takes words")
    line: Any = 'set -o pipefail; a=(x y); false | echo "${a[1]}" <(:) | cut -d" " -f1'
    done = run(surface, line, cwd="src")
    assert (done["stdout"], done["exit_code"], done["command"]) == ("y\n", 1, line)
    once = surface.do("run_in_vm", environment="debian:12-base", command="[[ -n $BASH_VERSION ]] && echo bash")
    assert once["stdout"] == "bash\n"


def test_shells_and_services_have_them_too(surface: Any, place: str) -> None:
    env = {"MODE": "of the service"}
    begun = surface.do(
        "start_service",
        workspace_id=place,
        service_name="told",
        command=["bash", "-c", 'echo "$PWD $MODE"; exec sleep 300'],
        cwd="src",
        env=env,
        readiness={"command": '[[ "$MODE" == "of the service" ]] && : <(:)'},
    )
    assert (begun["state"], begun["cwd"], begun["stdout"]) == (
        "ready",
        "/workspace/src",
        "/workspace/src of the service\n",
    )
    assert "of the service" not in str({name: begun[name] for name in begun if name not in ("stdout", "readiness")})
    surface.do("stop_service", workspace_id=place, service_name="told")
    opened = surface.do("open_shell", workspace_id=place, cwd="src", env={"MODE": "of the shell"})
    named = {"workspace_id": place, "shell_id": opened["shell_id"]}
    surface.do("write_shell", **named, input='echo "<$MODE>" in $PWD')
    seen = ""
    while "<of the shell> in /workspace/src" not in seen:
        read = surface.do("read_shell", **named, cursor=0, wait_for_idle_ms=200)
        assert read["state"] == "running"
        seen = read["output"]
    surface.do("close_shell", **named)


def test_one_call_tells_what_a_slow_command_says(surface: Any, place: str) -> None:
    left = run(surface, ["bash", "-c", SLOW], wait_seconds=0)
    asked = {"workspace_id": place, "sequence": left["sequence"], "cursor": "0:0", "wait_seconds": 60}
    (entry,) = surface.do("logs_workspace", **asked, until="page")["entries"]
    assert (entry["state"], entry["exit_code"]) == ("finished", 0)
    assert entry["stdout"] == "".join(f"line {n}\n" for n in range(1, 41))
    left = run(surface, ["bash", "-c", f"{SLOW}; exit 3"], wait_seconds=0)
    (entry,) = surface.do("logs_workspace", workspace_id=place, sequence=left["sequence"], until="done")["entries"]
    assert (entry["state"], entry["exit_code"], entry["stdout"][-8:]) == ("finished", 3, "line 40\n")


def test_a_tool_gathers_by_itself_and_the_others_follow(surface: Any, place: str) -> None:
    left = run(surface, ["bash", "-c", SLOW], wait_seconds=0)
    asked = {"workspace_id": place, "sequence": left["sequence"], "cursor": "0:0", "wait_seconds": 60}
    (entry,) = surface.do("logs_workspace", **asked)["entries"]
    gathers = not hasattr(surface, "_environ") and not hasattr(surface, "_pyro")
    assert (entry["state"] == "finished") is gathers
    surface.do("logs_workspace", workspace_id=place, sequence=left["sequence"], end=True)


def test_no_process_of_the_host_shows_a_variable(surface: Any, place: str) -> None:
    if hasattr(surface, "_environ"):
        pytest.skip("who types a value on a command line shows it in that")
    seen: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.extend([str(path)] if b"canary-variable" in path.read_bytes() else [])
                except OSError:
                    continue
            time.sleep(0.05)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        told = run(surface, ["sh", "-c", 'sleep 0.5; echo "${#GIVEN}"'], env={"GIVEN": "canary-variable"})
    finally:
        done.set()
        watcher.join()
    assert (told["stdout"], seen) == ("15\n", [])


def test_nothing_on_this_host_keeps_a_variable(surface: Any, place: str, environ: dict[str, str]) -> None:
    run(surface, ["true"], env={"GIVEN": "canary-kept-nowhere"})
    state = Path(environ["PYRO_STATE_DIR"])
    kept = [state / "node.log", *state.glob("pyro.db*"), *state.glob("workspaces/**/*")]
    assert (state / "node.log").exists()
    holding = [path for path in kept if path.is_file() and b"canary-kept-nowhere" in path.read_bytes()]
    assert holding == []
