"""Tools as a chat host sees them: exact schemas, honest annotations, answers that fit."""

from __future__ import annotations

import json
import re
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from mcp.types import ListToolsResult

from pyro_mcp.errors import InvalidArgument, NotFound
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.mcp.instructions import instructions
from pyro_mcp.surfaces.mcp.server import create_server
from pyro_mcp.surfaces.mcp.tools import ANSWER_CHARS, BoundTool, answer, clip, refusal
from pyro_mcp.surfaces.wording import SDK

VM_TOOLS = {
    *("vm_list_environments", "vm_create", "vm_start", "vm_exec", "vm_stop", "vm_delete", "vm_status"),
    *("vm_network_info", "vm_reap_expired"),
}


def bound(profile: str, **permissions: bool) -> dict[str, BoundTool]:
    allowed = permissions.get("allow_host_compat", False)
    return {one.tool or "": BoundTool(one, profile, allow_host_compat=allowed) for one in catalog.tools(profile)}


def test_profiles_show_what_the_contract_says() -> None:
    assert set(bound("vm-run")) == {"vm_run"}
    assert set(bound("workspace-core")) >= {"vm_run", "workspace_start"}
    core = {name: {field.name for field in tool.fields} for name, tool in bound("workspace-core").items()}
    assert (
        not {"network_policy", "allow_hosts", "allow_addresses", "host_ca", "secrets", "secret_files"}
        & core["workspace_create"]
    )
    assert not any("secret_env" in names for names in core.values())
    assert set(bound("workspace-full")) >= {"vm_run"} | VM_TOOLS
    with pytest.raises(InvalidArgument, match="unknown"):
        catalog.tools("everything")


def test_no_argument_widens_isolation_unless_the_server_was_started_so() -> None:
    shown = bound("vm-run")["vm_run"].describe(SDK).input_schema["properties"]
    assert not {"allow_host_compat", "network"} & set(shown)
    assert "network" in bound("workspace-full")["vm_run"].describe(SDK).input_schema["properties"]
    allowed = bound("vm-run", allow_host_compat=True)["vm_run"]
    assert "allow_host_compat" in allowed.describe(SDK).input_schema["properties"]
    with pytest.raises(InvalidArgument, match="no parameter 'allow_host_compat'"):
        bound("workspace-full")["vm_run"].params(
            {"environment": "debian:12", "command": "true", "allow_host_compat": True}
        )


def test_schemas_are_complete_and_lean() -> None:
    for tool in bound("workspace-full").values():
        listed = tool.describe(SDK)
        text = json.dumps(listed.input_schema)
        assert '"$ref"' not in text
        assert '"title"' not in text
        for shape in listed.input_schema["properties"].values():
            assert shape["description"]
    run = bound("vm-run")["vm_run"].describe(SDK).input_schema
    assert "required" not in run
    assert run["properties"]["mem_mib"] == {
        "description": "memory of the machine in MiB (128 to 1048576; default 1024)",
        "type": "integer",
    }


@pytest.mark.parametrize(
    ("profile", "read_by_models", "listed"),
    [("vm-run", 1_900, 2_200), ("workspace-core", 18_000, 20_000), ("workspace-full", 40_000, 46_000)],
)
def test_the_tools_of_a_profile_stay_light(profile: str, read_by_models: int, listed: int) -> None:
    tools = [tool.describe(SDK) for tool in bound(profile).values()]
    read = [(tool.name, tool.description, tool.input_schema) for tool in tools]
    assert len(json.dumps(read, separators=(",", ":"))) < read_by_models
    assert len(ListToolsResult(tools=tools).model_dump_json(by_alias=True, exclude_none=True)) < listed


def test_annotations_are_honest() -> None:
    def hints(profile: str, name: str) -> tuple[Any, ...]:
        notes = bound(profile)[name].describe(SDK).annotations
        assert notes is not None
        return notes.read_only_hint, notes.destructive_hint, notes.open_world_hint

    assert hints("vm-run", "vm_run") == (False, False, False)
    assert hints("workspace-full", "vm_run") == (False, False, True)
    assert hints("workspace-full", "vm_status") == (True, False, False)
    assert hints("workspace-full", "vm_delete") == (False, True, False)
    assert hints("workspace-full", "vm_exec") == (False, False, False)


NETWORK_WORDS = re.compile(r"network|egress|ingress|publish|port|proxy|allow_(host|addr)")


@pytest.mark.parametrize("profile", catalog.PROFILES)
def test_every_parameter_that_can_open_a_network_says_so(profile: str) -> None:
    """Codex runs unasked what is neither destructive nor open to the world, a network policy included."""
    for tool in bound(profile, allow_host_compat=True).values():
        described = tool.describe(SDK)
        opening = {field.name for field in tool.fields if field.param.opens_network}
        named = {name for name in described.input_schema["properties"] if NETWORK_WORDS.search(name)}
        assert opening == named - {"allow_host_compat"}, tool.name
        assert described.annotations is not None
        expected = bool(opening) or tool.operation.effects.open_world
        assert described.annotations.open_world_hint is expected, tool.name


def test_what_reaches_out_of_a_guest_is_known_by_name() -> None:
    def open_tools(profile: str) -> set[str]:
        listed = [tool.describe(SDK) for tool in bound(profile).values()]
        return {one.name for one in listed if one.annotations and one.annotations.open_world_hint}

    assert open_tools("vm-run") == set()
    assert open_tools("workspace-core") == {"workspace_export"}
    assert open_tools("workspace-full") == {
        *("vm_run", "vm_create", "workspace_create", "service_start", "workspace_export", "workspace_disk_export"),
    }


def test_null_for_an_optional_argument_means_its_default() -> None:
    given_arguments = {"environment": "debian:12", "command": "true", "mem_mib": None}
    assert bound("vm-run")["vm_run"].params(given_arguments) == {"environment": "debian:12", "command": "true"}


@given(st.text(max_size=40_000), st.text(max_size=40_000))
def test_what_is_cut_is_counted_and_the_rest_is_exact(stdout: str, stderr: str) -> None:
    shown = clip({"stdout": stdout, "stderr": stderr, "exit_code": 0, "stdout_dropped_bytes": 0})
    assert list(shown)[-2:] == ["stderr", "stdout"]
    assert len(shown["stdout"]) + len(shown["stderr"]) < ANSWER_CHARS + 500
    for name, text in (("stdout", stdout), ("stderr", stderr)):
        if shown[name] != text:
            assert shown["truncated"] is True
            assert shown[f"{name}_dropped_bytes"] > 0
            assert f"[... {shown[f'{name}_dropped_bytes']} bytes left out" in shown[name]


def test_counts_add_to_what_the_guest_had_dropped() -> None:
    shown = clip({"stdout": "x" * 100_000, "stderr": "", "stdout_dropped_bytes": 50})
    assert shown["stdout_dropped_bytes"] == 50 + 100_000 - 8_000
    assert shown["stdout"].startswith("xxx")
    assert shown["stdout"].endswith("xxx")


@pytest.mark.parametrize("text", ["x" * 50_000, "é€" * 20_000])
def test_a_cut_command_says_where_to_read_on(text: str) -> None:
    told = {"sequence": 7, "next_cursor": f"{len(text.encode())}:3", "stdout": text, "stderr": "bad"}
    shown = clip(told)["stdout"]
    found = re.search(r'\n\[\.\.\. \d+ bytes left out here; workspace_logs with sequence 7 and cursor "(\d+):3"', shown)
    assert found
    assert text.encode()[: int(found[1])].decode() == shown[: found.start()]
    assert 'cursor "0:3" reads all' in clip(told | {"encoding_lossy": True})["stdout"]
    assert 'cursor "0:3" reads all' in clip(told | {"stdout_dropped_bytes": 9})["stdout"]


def test_a_cut_stream_without_a_history_names_what_helps() -> None:
    assert "output is gone" in clip({"stdout": "x" * 50_000})["stdout"]
    assert "fewer lines" in clip({"service_name": "web", "stdout": "x" * 50_000})["stdout"]


@given(st.lists(st.tuples(st.text(max_size=300), st.text(max_size=300)), min_size=1, max_size=30))
def test_only_what_lacks_something_is_marked_in_a_history(streams: list[tuple[str, str]]) -> None:
    told = [
        {"sequence": number, "next_cursor": "0:0", "stdout": out * 40, "stderr": err * 40}
        for number, (out, err) in enumerate(streams)
    ]
    for entry, shown in zip(told, clip({"entries": told})["entries"], strict=True):
        for name in ("stdout", "stderr"):
            if shown[name] == entry[name]:
                continue
            mark = re.search(r"\n\[\.\.\. (\d+) bytes left out here", shown[name])
            assert mark
            assert int(mark[1]) == shown[f"{name}_dropped_bytes"] > 0


def test_an_empty_stream_beside_a_cut_one_stays_empty() -> None:
    entry = {"sequence": 1, "next_cursor": "0:528", "stdout": "", "stderr": "x" * 528}
    last = {"sequence": 2, "next_cursor": "9999:0", "stdout": "y" * 9999, "stderr": ""}
    shown = clip({"entries": [entry] * 9 + [last]})["entries"][0]
    assert shown["stdout"] == ""
    assert "left out here" in shown["stderr"]


def test_a_long_stdout_leaves_room_for_stderr() -> None:
    shown = clip({"stdout": "x" * 100_000, "stderr": "y" * 100_000})
    assert shown["stderr"].count("y") >= 2_000
    assert shown["stdout"].count("x") >= 7_000


def test_text_and_structure_say_the_same() -> None:
    result = answer({"stdout": "é\ud800", "exit_code": 3})
    assert json.loads(result.content[0].text) == result.structured_content == {"exit_code": 3, "stdout": "é?"}
    result.model_dump_json()


def test_a_script_is_not_told_back() -> None:
    script = "cat > a <<E\n" + "x" * 50_000 + "\nE\nmake"
    shown = answer({"command": script, "last_command": {"command": script}, "commands": [{"command": "ls"}]})
    told = shown.structured_content
    assert told is not None
    assert told["commands"] == [{"command": "ls"}]
    assert told["command"] == told["last_command"]["command"]
    assert told["command"].startswith("cat > a <<E\nxxx")
    assert told["command"].endswith("make")
    assert f"[... {len(script) - 400} characters ...]" in told["command"]


def test_errors_are_text_only() -> None:
    result = refusal(NotFound("cannot find x: gone", hint="Look."))
    assert result.is_error
    assert result.structured_content is None
    assert result.content[0].text == "cannot find x: gone [not_found]\nHint: Look."


@pytest.mark.parametrize("profile", catalog.PROFILES)
def test_instructions_are_short_and_tell_of_nothing_that_is_not_there(profile: str) -> None:
    shown = bound(profile)
    text = instructions(shown)
    assert len(text) < 2_000
    fields = {
        field.name
        for operation in catalog.tools(profile)
        for field in catalog.tool_fields(operation, profile, allow_host_compat=False)
    }
    named = set(re.findall(r"[a-z]+(?:_[a-z]+)+(?!\w|_\*)", text))
    assert named <= {*shown, *fields, "exit_code", "next_cursor"}
    assert "no network" in text
    assert ("cd and\nexport" in text) == (profile != "vm-run")
    assert ("service_start" in named) == ("shell_open" in named) == (profile == "workspace-full")


@pytest.mark.parametrize("words", ["sandbox", "virtual machine", "isolated container", "run code safely"])
def test_a_search_among_deferred_tools_finds_where_to_begin(words: str) -> None:
    """Claude shows its model no tool before a search has found it."""
    for profile, name in (("vm-run", "vm_run"), ("workspace-core", "vm_run"), ("workspace-core", "workspace_create")):
        described = bound(profile)[name].describe(SDK)
        told = f"{described.name} {described.description}".lower()
        assert all(re.search(rf"\b{word}\b", told) for word in words.split()), (name, words)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_bad_calls_are_errors_the_model_can_read(mode: str, tmp_path: Any) -> None:
    from pyro_mcp.settings import Settings

    async def talk() -> None:
        server = create_server("vm-run", settings=Settings.load({}, state_dir=tmp_path / "state"))
        async with Client(server, mode=mode) as client:
            for name, arguments, words in (
                ("vm_rnu", {}, "no such tool"),
                ("vm_run", {}, "command: it is missing"),
                ("vm_run", {"environment": "debian:12", "command": "x", "mem_mib": 1}, "expected 128 to"),
                ("vm_run", {"environment": "debian:12", "command": "x", "host": "y"}, "no parameter 'host'"),
            ):
                result = await client.call_tool(name, arguments)
                assert result.is_error
                assert words in result.content[0].text

    anyio.run(talk)
    assert not (tmp_path / "state").exists(), "a bad call starts no node"


def test_a_number_is_lowered_to_what_an_answer_holds() -> None:
    read = bound("workspace-full")["shell_read"]
    named = {"workspace_id": "w", "shell_id": "sh-0123456789ab"}
    assert read.params(named)["max_chars"] == 8_000
    assert read.params({**named, "max_chars": 1_000_000})["max_chars"] == 8_000
    assert read.params({**named, "max_chars": 5})["max_chars"] == 5
    assert bound("workspace-core")["workspace_logs"].params({"workspace_id": "w"})["max_bytes"] == 8_000
