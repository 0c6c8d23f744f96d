"""Every verb: declared well enough that each surface can be made from it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from pyro_mcp.api.run import run_in_vm
from pyro_mcp.api.vm import status_vm
from pyro_mcp.errors import InvalidArgument, ProtocolError
from pyro_mcp.model.process import Cleanup, RunResult
from pyro_mcp.operations.call import Call
from pyro_mcp.operations.encode import decode, encode
from pyro_mcp.operations.fields import Param
from pyro_mcp.operations.operation import Effects, Operation, operation
from pyro_mcp.operations.validate import json_type
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.wording import CLI, SDK

VERBS = list(catalog.every_operation())

RESULT = RunResult(
    command="true",
    exit_code=0,
    duration_ms=3,
    execution_mode="guest",
    isolation="emulated",
    vm_id="vm-0123456789ab",
    cwd="/root",
    environment="debian:12",
    cleanup=Cleanup(deleted=True, reason="one-shot"),
)


def schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of `kind`, which msgspec refuses to give of what it cannot check."""
    document = msgspec.json.schema(kind)
    name = document.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = document["$defs"][name] if name else document
    return found


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_a_verb_explains_itself(verb: Operation[Any, Any]) -> None:
    assert verb.summary.endswith(".")
    for field in verb.fields:
        assert field.param.help, field.name
        identifier = field.name in {"environment", "vm_id", "workspace_id"} and verb.name != "create_workspace"
        assert field.positional or not identifier, "identifiers are positional"
        schema(json_type(field))
    assert schema(verb.result_type)["type"] == "object"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"vcpu_count": 0}, "vcpu_count: expected 1 to 32, got 0"),
        ({"vcpu_count": 10**30}, "expected 1 to 32"),
        ({"mem_mib": -1}, "mem_mib: expected 128 to"),
        ({"mem_mib": "1024 MiB"}, "mem_mib: expected a whole number, got '1024 MiB'"),
        ({"mem_mib": "64"}, "mem_mib: expected 128 to 1048576, got 64"),
        ({"timeout_seconds": True}, "timeout_seconds: expected a whole number, got true"),
        ({"timeout_seconds": 10.5}, "timeout_seconds: expected a whole number, 1 to 86400, got 10.5"),
        ({"timeout_seconds": None}, "timeout_seconds: expected a whole number, got null"),
        ({"command": []}, "command: expected a list of length 1 or more, got []"),
        ({"command": ""}, "command: expected text of length 1 or more, got ''"),
        ({"command": [1]}, "command: expected"),
        ({"command": ["a", "b\0c"]}, "NUL"),
        ({"environment": "../x"}, "a name such as debian:12"),
        ({"environment": "debian:12\n"}, "newline"),
        ({"environment": "x" * 1000}, "a name such as debian:12"),
        ({"network": "yes"}, "network: expected true or false"),
        ({"stdin": "text"}, "stdin: expected true or false"),
        ({"colour": "red"}, "no parameter 'colour'"),
    ],
)
def test_a_bad_parameter_is_named_with_its_rule(given: dict[str, Any], words: str) -> None:
    good = {"environment": "debian:12", "command": ["true"]}
    with pytest.raises(InvalidArgument) as caught:
        run_in_vm.validate({**good, **given})
    assert words in caught.value.message
    assert len(caught.value.message) < 400
    assert CLI.error(caught.value).hint
    assert "<<" not in caught.value.hint


def test_a_hint_names_the_parameter_as_the_surface_does() -> None:
    for wording, name in ((CLI, "--timeout-seconds"), (SDK, "timeout_seconds")):
        with pytest.raises(InvalidArgument) as caught:
            run_in_vm.validate({"environment": "debian:12", "command": "true", "timeout_seconds": 0})
        assert (wording.error(caught.value).hint or "").startswith(f"{name}: seconds after which")


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(InvalidArgument, match="command: it is missing"):
        run_in_vm.validate({"environment": "debian:12"})


def test_defaults_are_the_verbs_own() -> None:
    filled = run_in_vm.validate({"environment": "debian:12", "command": "true"})
    assert filled["vcpu_count"] == 1
    assert filled["mem_mib"] == 1024
    assert filled["timeout_seconds"] == 30
    assert filled["allow_host_compat"] is False


def test_python_arguments_become_parameters_and_streams() -> None:
    params, streams = run_in_vm.request(("debian:12",), {"command": ("a", "b"), "stdin": b"x"})
    assert params == {"environment": "debian:12", "command": ["a", "b"], "stdin": True}
    assert streams == {"stdin": b"x"}


def test_a_wrong_call_fails_like_any_python_call() -> None:
    with pytest.raises(TypeError):
        run_in_vm.request(("debian:12", "true"), {})
    with pytest.raises(TypeError):
        status_vm.request((), {})


def test_a_verb_answers_untrusted_parameters_and_gets_its_input() -> None:
    @operation(effects=Effects())
    def shout(
        call: Call[None],
        *,
        word: Annotated[str, Param(help="w")],
        stdin: Annotated[bytes | None, Param(help="s", stream=True)] = None,
    ) -> Cleanup:
        """Shout."""
        call.output(1, word.upper().encode())
        return Cleanup(deleted=stdin is None, reason=b"".join(stdin or ()).decode())  # type: ignore[arg-type]

    heard: list[tuple[int, bytes]] = []
    call: Call[None] = Call(None, write=lambda tag, data: heard.append((tag, data)), read=lambda: [b"a", b"b"])
    assert shout.answer(call, {"word": "hi", "stdin": True}) == {"deleted": False, "reason": "ab"}
    assert shout.answer(call, {"word": "hi"}) == {"deleted": True, "reason": ""}
    assert heard == [(1, b"HI"), (1, b"HI")]
    with pytest.raises(InvalidArgument):
        shout.answer(call, {})


def test_a_cancelled_call_tells_each_listener_once() -> None:
    call: Call[None] = Call(None)
    told: list[str] = []
    forget = call.on_cancel(lambda: told.append("forgotten"))
    call.on_cancel(lambda: told.append("first"))
    forget()
    call.cancel()
    call.cancel()
    call.on_cancel(lambda: told.append("late"))
    assert told == ["first", "late"]


def test_results_are_objects_and_mappings() -> None:
    assert RESULT["exit_code"] == RESULT.exit_code == 0
    assert RESULT["cleanup"]["deleted"] is True
    assert dict(RESULT)["vm_id"] == "vm-0123456789ab"
    assert RESULT.get("nothing", 5) == 5
    assert "stdout" in RESULT
    with pytest.raises(KeyError):
        RESULT["nothing"]
    with pytest.raises(KeyError):
        RESULT["keys"]


def test_results_survive_the_wire() -> None:
    assert decode(encode(RESULT), RunResult) == RESULT
    assert decode({**encode(RESULT), "added_later": 1}, RunResult) == RESULT
    with pytest.raises(ProtocolError, match="RunResult"):
        decode({"command": 5}, RunResult)


@pytest.mark.parametrize("command", ["y" * 131_072, "é" * 65_536, ["y" * 1000] * 132, ["", "y"] * 70_000])
def test_a_command_that_no_machine_takes_is_refused_before_one_is_made(command: str | list[str]) -> None:
    with pytest.raises(InvalidArgument, match=r"command: it takes \d+ bytes, at most 131071 fit") as caught:
        run_in_vm.validate({"environment": "debian:12", "command": command})
    assert "into a file" in (caught.value.hint or "")
    assert run_in_vm.validate({"environment": "debian:12", "command": "y" * 131_071})
