"""The same scenario over SDK, CLI and MCP: one behaviour, one encoding, one set of errors."""

from __future__ import annotations

import re
from typing import Any

import pytest
from short import Short, promised

pytestmark = pytest.mark.guest

FIELDS = {
    *("command", "stdout", "stderr", "exit_code", "duration_ms", "execution_mode", "isolation", "vm_id", "cleanup"),
    *("environment", "truncated", "timed_out", "signal"),
}


def test_a_command_runs_in_a_machine_of_its_own(surface: Any) -> None:
    result = surface.run("debian:12", ["git", "--version"])
    assert promised(result) >= FIELDS
    assert result["stdout"].startswith("git version ")
    assert result["exit_code"] == 0
    assert result["execution_mode"] == "guest"
    assert result["isolation"] in {"emulated", "kvm-qemu", "kvm-firecracker"}
    if not isinstance(result, Short):
        assert re.fullmatch("vm-[0-9a-f]{12}", result["vm_id"])
        assert result["cleanup"]["deleted"] is True


def test_word_boundaries_and_both_streams_survive(surface: Any) -> None:
    result = surface.run("debian:12", ["sh", "-c", 'printf "%s|" "$@"; echo oops >&2; exit 7', "_", "a  b", "", "é"])
    assert result["stdout"] == "a  b||é|"
    assert result["stderr"] == "oops\n"
    assert result["exit_code"] == 7


def test_escapes_are_exact_in_json(surface: Any) -> None:
    assert surface.run("debian:12", ["printf", r"\033]0;x\007\033[31m"])["stdout"] == "\x1b]0;x\x07\x1b[31m"


def test_a_timeout_is_a_result(surface: Any) -> None:
    result = surface.run("debian:12", ["sleep", "60"], timeout_seconds=1)
    assert result["exit_code"] == 124
    assert result["timed_out"] is True


def test_a_signal_is_named(surface: Any) -> None:
    result = surface.run("debian:12", ["sh", "-c", "kill -9 $$"])
    assert result["exit_code"] == 137
    assert result["signal"] == "SIGKILL"


def test_a_command_that_is_not_there_is_a_result(surface: Any) -> None:
    result = surface.run("debian:12", ["no-such-command"])
    assert result["exit_code"] == 127
    assert "no-such-command" in result["stderr"]


def test_output_beyond_the_bound_is_counted(surface: Any) -> None:
    result = surface.run("debian:12", ["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"])
    assert result["truncated"] is True
    assert result["stdout_dropped_bytes"] >= 3_000_000 - 1024 * 1024 - 1000
    assert result["stdout_dropped_bytes"] + result["stdout"].count("x") == pytest.approx(3_000_000, abs=1000)


def test_environments_are_listed(surface: Any) -> None:
    listed = surface.environments()
    assert {"debian:12", "debian:12-base", "debian:12-build"} <= {one["name"] for one in listed["environments"]}
    assert listed["count"] == len(listed["environments"])


@pytest.mark.parametrize(
    ("environment", "params", "code", "words"),
    [
        ("nope:1", {}, "not_found", "cannot find environment 'nope:1'"),
        ("debian:12", {"mem_mib": 5}, "invalid_argument", "mem_mib: expected 128 to"),
        ("debian:12", {"vcpu_count": 99}, "invalid_argument", "vcpu_count: expected 1 to 32, got 99"),
        ("../etc", {}, "invalid_argument", "environment: expected a name such as debian:12"),
    ],
)
def test_refusals_have_one_code_and_one_text(
    surface: Any, environment: str, params: dict[str, Any], code: str, words: str
) -> None:
    with pytest.raises(Exception, match=re.escape(words)) as caught:
        surface.run(environment, ["true"], **params)
    assert caught.value.code == code  # type: ignore[attr-defined]
