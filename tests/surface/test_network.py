"""A network policy over SDK, CLI and MCP, in real guests on a host that is connected to an internet of the test's."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from internet import HOST, OTHER, PRIVATE, ROUTER, WEB, internet, why_not

pytestmark = pytest.mark.guest

PYRO = [sys.executable, "-m", "pyro_mcp"]

FETCH = (
    'get() { exec 3<>"/dev/tcp/$1/${2:-80}" && printf "GET ${3:-/} HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n" >&3'
    " && tail -n 1 <&3; }; "
)


@pytest.fixture(scope="module")
def online(environ: dict[str, str]) -> Iterator[dict[str, str]]:
    """The variables of a node that lives on such a host; the surfaces reach it over its socket."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    # What guests boot comes from the real internet, so it is made before.
    boot = [*PYRO, "run", "debian:12", "--timeout-seconds", "120", "--", "true"]
    subprocess.run(boot, env=environ, check=True, capture_output=True, timeout=600)
    with internet() as host, tempfile.TemporaryDirectory(prefix="pyro-net-") as directory:
        ca_file = Path(directory) / "ca.pem"
        ca_file.write_text("-----BEGIN CERTIFICATE-----\nbm90IHJlYWxseQ==\n-----END CERTIFICATE-----\n")
        values = {**environ, "PYRO_STATE_DIR": f"{directory}/state", "PYRO_IDLE_SECONDS": "3600"}
        values["PYRO_CA_FILE"] = str(ca_file)
        start = [*host.prefix, *PYRO, "env", "list"]
        subprocess.run(start, env=values, check=True, capture_output=True, timeout=60)
        values["PREFIX"] = "\n".join(host.prefix)
        yield values
        subprocess.run([*PYRO, "node", "stop", "--force"], env=values, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module", params=["sdk", "cli", "mcp-legacy", "mcp-auto"])
def talker(request: pytest.FixtureRequest, online: dict[str, str], speaking: Any) -> Iterator[Any]:
    made = speaking(request.param, online)
    yield made
    made.close()


@pytest.fixture(scope="module")
def sdk(online: dict[str, str], speaking: Any) -> Iterator[Any]:
    made = speaking("sdk", online)
    yield made
    made.close()


def execute(surface: Any, command: str) -> dict[str, Any]:
    done: dict[str, Any] = surface.do(
        "exec_workspace", workspace_id="net", command=["bash", "-c", FETCH + command], timeout_seconds=120
    )
    return done


def refused(done: dict[str, Any]) -> set[tuple[str | None, str | None, int | None]]:
    return {(one["name"], one["address"], one["port"]) for one in done["network_refusals"]}


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes the workspace `net` through a surface; it ends with the test."""
    used: list[Any] = []

    def make(surface: Any, **options: Any) -> dict[str, Any]:
        created: dict[str, Any] = surface.do("create_workspace", environment="debian:12", name="net", **options)
        used.append(surface)
        return created

    yield make
    for surface in used:
        surface.do("delete_workspace", workspace_id="net")


def test_names_narrow_and_refusals_are_told(talker: Any, made: Any) -> None:
    workspace = made(
        talker,
        network_policy="egress",
        allow_hosts=["web.test", "*.wild.test", "listed.test"],
        allow_addresses=[PRIVATE],
        host_ca=True,
    )
    assert (workspace["network_policy"], workspace["network_enabled"], workspace["host_ca"]) == ("egress", True, True)
    assert workspace["allow_hosts"] == ["web.test", "*.wild.test", "listed.test"]
    assert workspace["allow_addresses"] == [f"{PRIVATE}/32"]
    fine = execute(talker, "get web.test; get WEB.test.; get a.wild.test; get listed.test 80 /x")
    assert fine["stdout"].splitlines() == [f"{WEB} /", f"{WEB} /", f"{OTHER} /", f"{WEB} /x"]
    assert fine["network_refusals"] == []
    not_so = execute(
        talker, f"get wild.test; get private.test; get {PRIVATE}; get {OTHER} 81; cat /etc/ssl/certs/ca-c*"
    )
    assert "bm90IHJlYWxseQ==" in not_so["stdout"]
    assert refused(not_so) == {
        ("wild.test", None, None),
        ("private.test", None, None),
        (None, PRIVATE, 80),
    }
    hints = {one["name"]: one["hint"] for one in not_so["network_refusals"]}
    assert hints["wild.test"] == "--allow-host wild.test"
    info = talker_info(talker, workspace)
    assert (info["enforced"], info["network_policy"], info["guest_ip"]) == (True, "egress", workspace["guest_ip"])
    network = talker.do("summarize_workspace", workspace_id="net")["network"]
    assert network["totals"]["allowed"] == 4
    assert network["totals"]["failed"] == 1
    assert {one["name"] for one in network["destinations"]} == {"web.test", "a.wild.test", "listed.test"}
    assert {one["name"] for one in network["refusals"]} == {"wild.test", "private.test", None}
    reset = talker.do("reset_workspace", workspace_id="net")
    assert reset["allow_hosts"] == workspace["allow_hosts"]
    assert execute(talker, "get web.test; get wild.test")["stdout"] == f"{WEB} /\n"


def talker_info(surface: Any, workspace: dict[str, Any]) -> dict[str, Any]:
    """What is in force, where the surface has a word for it."""
    machine_id = workspace["metadata"]["machine_id"]
    if type(surface).__name__ == "CliSurface":
        return {"enforced": True, **{name: workspace[name] for name in ("network_policy", "guest_ip")}}
    answer: dict[str, Any] = surface.do("network_info_vm", vm_id=machine_id)
    return answer


def test_one_shots_too(talker: Any) -> None:
    done = talker.run("debian:12", ["bash", "-c", FETCH + f"get web.test; get {PRIVATE}"], network=True)
    assert done["stdout"] == f"{WEB} /\n"
    assert refused(done) == {(None, PRIVATE, 80)}


def test_what_is_not_public_stays_out_of_reach(sdk: Any, made: Any) -> None:
    """Whatever it is called: by its number in any form, or by a name that says something else the second time."""
    made(sdk, network_policy="egress")
    assert execute(sdk, "get flip.test")["stdout"] == f"{WEB} /\n"
    flipped = execute(sdk, "get flip.test")
    assert (flipped["stdout"], refused(flipped)) == ("", {("flip.test", "127.0.0.1", None)})
    done = execute(
        sdk, f"for a in {PRIVATE} {HOST} 169.254.169.254 ::ffff:{PRIVATE} 168427527 012.9.8.7; do get $a; done"
    )
    assert done["stdout"] == ""
    assert {one[1] for one in refused(done)} >= {PRIVATE, HOST, "169.254.169.254"}
    done = execute(
        sdk, "for a in private.test host.test metadata.test; do get $a; done; get mixed.test; get bücher.test"
    )
    assert (done["stdout"].splitlines()[:1], done["exit_code"]) == ([f"{WEB} /"], done["exit_code"])
    assert {one[0] for one in refused(done)} >= {"private.test", "host.test", "metadata.test"}
    # The host's search list turns no name into another.
    unknown = execute(sdk, "get nowhere.test; get nowhere")
    assert (unknown["stdout"], unknown["network_refusals"]) == ("", [])
    moved = execute(sdk, "GIT_TERMINAL_PROMPT=0 git ls-remote http://web.test/away/x.git")
    assert (moved["exit_code"] != 0, (None, PRIVATE, 80) in refused(moved)) == (True, True)


def test_an_empty_list_allows_nothing(sdk: Any, made: Any) -> None:
    made(sdk, network_policy="egress", allow_hosts=[])
    done = execute(sdk, f"get web.test; get {WEB}")
    assert (done["stdout"], refused(done)) == ("", {("web.test", None, None), (None, WEB, 80)})


def test_off_is_off(sdk: Any, made: Any) -> None:
    workspace = made(sdk)
    assert (workspace["network_policy"], workspace["guest_ip"]) == ("off", None)
    done = execute(sdk, f"get {WEB}; get web.test; ls /sys/class/net; echo x > /dev/udp/{ROUTER}/53")
    assert done["stdout"] == "lo\n"
    assert done["exit_code"] != 0


def test_it_goes_on_after_a_restart_and_with_the_next_node(sdk: Any, made: Any, online: dict[str, str]) -> None:
    made(sdk, network_policy="egress", allow_hosts=["web.test"])
    sdk.do("stop_workspace", workspace_id="net")
    sdk.do("start_workspace", workspace_id="net")
    assert execute(sdk, "get web.test; get wild.test")["stdout"] == f"{WEB} /\n"
    end_node(online)
    subprocess.run([*online["PREFIX"].split("\n"), *PYRO, "env", "list"], env=online, check=True, capture_output=True)
    done = execute(sdk, "get web.test; get wild.test")
    assert (done["stdout"], refused(done)) == (f"{WEB} /\n", {("wild.test", None, None)})
    assert sdk.do("summarize_workspace", workspace_id="net")["network"]["totals"]["allowed"] == 2


def end_node(environ: dict[str, str]) -> None:
    """Kill it without a word, as a crash would."""
    import json
    import os
    import signal

    from pyro_mcp.system.process import wait_pidfd

    status = subprocess.run([*PYRO, "node", "status", "--json"], env=environ, check=True, capture_output=True)
    descriptor = os.pidfd_open(json.loads(status.stdout)["pid"])
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    wait_pidfd(descriptor, 20)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"allow_hosts": ["a b"]}, "cannot use --allow-host 'a b'"),
        ({"allow_hosts": ["127.1"]}, "an address written as a name"),
        ({"allow_addresses": ["10.0.0.5/8"]}, "write 10.0.0.0/8"),
        ({"network_policy": "off", "allow_hosts": ["a.test"]}, "only where there is a network"),
    ],
)
def test_what_cannot_be_used_is_refused(talker: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words) as caught:
        talker.do("create_workspace", environment="debian:12", **{"network_policy": "egress", **options})
    assert caught.value.code == "invalid_argument"  # type: ignore[attr-defined]


@pytest.fixture
def hosted(hosted_environ: dict[str, str], speaking: Any) -> Iterator[Any]:
    made = speaking("sdk", hosted_environ, hosted=True)
    yield made
    made.close()


def test_a_plain_process_says_that_it_is_held_to_nothing(hosted: Any, made: Any) -> None:
    workspace = made(hosted, network_policy="egress", allow_host_compat=True)
    info = hosted.do("network_info_vm", vm_id=workspace["metadata"]["machine_id"])
    assert (info["enforced"], info["guest_ip"]) == (False, None)
    assert "enforces no network policy" in workspace["metadata"]["network"]
    with pytest.raises(Exception, match="cannot narrow"):
        made(hosted, network_policy="egress", allow_hosts=["web.test"], allow_host_compat=True)
