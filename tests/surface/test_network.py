"""A network policy over SDK, CLI and MCP, in real guests on a host that is connected to an internet of the test's."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from internet import (
    DISGUISED,
    HOST,
    HOST6,
    OTHER,
    PRIVATE,
    ROUTER,
    ROUTER6,
    ULA,
    WEB,
    WEB6,
    Internet,
    internet,
    why_not,
)

from pyro_mcp.model.network import GUEST_IP

pytestmark = pytest.mark.guest

PYRO = [sys.executable, "-m", "pyro_mcp"]

FETCH = (
    'get() { exec 3<>"/dev/tcp/$1/${2:-80}" && printf "GET ${3:-/} HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n" >&3'
    " && tail -n 1 <&3; }; "
)


@pytest.fixture(scope="module")
def world(environ: dict[str, str]) -> Iterator[Internet]:
    """The internet, with something to install and something to clone."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    # What guests boot comes from the real internet, so it is made before.
    for name in ("debian:12", "debian:12-build"):
        boot = [*PYRO, "run", name, "--timeout-seconds", "120", "--", "true"]
        subprocess.run(boot, env=environ, check=True, capture_output=True, timeout=600)
    with tempfile.TemporaryDirectory(prefix="pyro-site-") as directory:
        furnish(Path(directory))
        with internet(Path(directory)) as made:
            yield made


def furnish(site: Path) -> None:
    """A package index with a package in it, and a repository with a commit in it."""
    (site / "simple/greeting").mkdir(parents=True)
    with zipfile.ZipFile(site / "simple/greeting/greeting-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("greeting.py", "print('hello from a package')\n")
        wheel.writestr("greeting-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        wheel.writestr("greeting-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("greeting-1.0.dist-info/RECORD", "")
    source, who = site / "source", ["-c", "user.name=t", "-c", "user.email=t@web.test"]
    source.mkdir()
    (source / "numbers").write_text("".join(f"{number}\n" for number in range(200_000)))
    for words in (
        ["init", "-q"],
        ["add", "."],
        [*who, "commit", "-qm", "Count"],
        ["clone", "-q", "--bare", ".", "../it.git"],
    ):
        subprocess.run(["git", *words], cwd=source, check=True, capture_output=True)


@pytest.fixture(scope="module")
def online(environ: dict[str, str], world: Internet) -> Iterator[dict[str, str]]:
    """The variables of a node that lives on such a host; the surfaces reach it over its socket."""
    with tempfile.TemporaryDirectory(prefix="pyro-net-") as directory:
        ca_file = Path(directory) / "ca.pem"
        ca_file.write_text("-----BEGIN CERTIFICATE-----\nbm90IHJlYWxseQ==\n-----END CERTIFICATE-----\n")
        values = {**environ, "PYRO_STATE_DIR": f"{directory}/state", "PYRO_IDLE_SECONDS": "3600"}
        values["PYRO_CA_FILE"] = str(ca_file)
        start = [*world.prefix, *PYRO, "env", "list"]
        subprocess.run(start, env=values, check=True, capture_output=True, timeout=60)
        values["PREFIX"] = "\n".join(world.prefix)
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
        options = {"environment": "debian:12", "name": "net", **options}
        created: dict[str, Any] = surface.do("create_workspace", **options)
        used.append(surface)
        return created

    yield make
    for surface in used:
        surface.do("delete_workspace", workspace_id="net")


ALLOW_WILD = {
    "SdkSurface": "allow_hosts=['wild.test']",
    "CliSurface": "--allow-host wild.test",
    "McpSurface": 'allow_hosts: ["wild.test"]',
}


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
    assert hints["wild.test"] == ALLOW_WILD[type(talker).__name__]
    info = talker_info(talker, workspace)
    assert (info["enforced"], info["network_policy"], info["guest_ip"]) == (True, "egress", GUEST_IP)
    network = talker.do("summarize_workspace", workspace_id="net")["network"]
    assert network["totals"]["allowed"] == 4
    assert network["totals"]["failed"] == 1
    assert {one["name"] for one in network["destinations"]} == {"web.test", "a.wild.test", "listed.test"}
    assert {one["name"] for one in network["refusals"]} == {"wild.test", "private.test", None}
    talker.do("reset_workspace", workspace_id="net")
    assert talker.do("status_workspace", workspace_id="net")["allow_hosts"] == workspace["allow_hosts"]
    assert execute(talker, "get web.test; get wild.test")["stdout"] == f"{WEB} /\n"


def talker_info(surface: Any, workspace: dict[str, Any]) -> dict[str, Any]:
    """What is in force, where the surface has a word for it."""
    workspace = surface.do("status_workspace", workspace_id=workspace["workspace_id"])
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


def test_an_empty_list_allows_nothing(talker: Any, made: Any) -> None:
    assert made(talker, network_policy="egress", allow_hosts=[])["allow_hosts"] == []
    done = execute(talker, f"get web.test; get {WEB}")
    assert (done["stdout"], refused(done)) == ("", {("web.test", None, None), (None, WEB, 80)})


CROWD = f"""
import socket, threading
addresses = {{}}
def look(number): addresses[number] = socket.getaddrinfo(f"x{{number}}.evil.test", 80, type=socket.SOCK_STREAM)
lookers = [threading.Thread(target=look, args=(number,)) for number in range(80)]
for one in lookers: one.start()
for one in lookers: one.join()
held = []
while True:
    held.append(socket.socket())
    if held[-1].connect_ex(("{WEB}", 80)): break
print(len(addresses), len(held) - 1)
"""


def test_many_at_once_wait_or_are_told_why_not(sdk: Any, made: Any) -> None:
    made(sdk, network_policy="egress", environment="debian:12-build")
    done = execute(sdk, f"python3 - <<'END'\n{CROWD}\nEND")
    assert done["stdout"] == "80 120\n", done["stderr"]
    (refusal,) = done["network_refusals"]
    assert refusal["reason"] == "120 connections are under way, as many as one machine may have"
    assert (refusal["address"], refusal["count"]) == (WEB, 1)


def test_it_goes_over_ipv6_too(sdk: Any, made: Any, world: Internet) -> None:
    before = world.sent()
    made(sdk, network_policy="egress", environment="debian:12-build")
    done = execute(sdk, f"get six.test; get {WEB6}; get both.test; get inside.test")
    assert done["stdout"].splitlines()[:2] == [f"{WEB6} /", f"{WEB6} /"]
    assert done["stdout"].splitlines()[2] in (f"{WEB} /", f"{WEB6} /")
    assert done["stdout"].splitlines()[3] == f"{WEB6} /"
    after = world.sent()
    assert after["TcpActiveOpens"] >= before["TcpActiveOpens"] + 4, (
        "the host's kernel counts what a guest makes it send"
    )
    assert after["IpOutRequests"] > before["IpOutRequests"]
    names = ["ula.test", "loop.test", "local.test", "host6.test", "mapped.test", *DISGUISED]
    looked = execute(sdk, f"for name in {' '.join(names)}; do get $name; done")
    assert looked["stdout"] == ""
    assert {one[0] for one in refused(looked)} == set(names)
    literals = [ULA, HOST6, f"::ffff:{PRIVATE}", *DISGUISED.values()]
    dialled = execute(sdk, f"for address in {' '.join(literals)} ::1 fe80::1; do get $address; done")
    assert dialled["stdout"] == ""
    told = {(one["address"], one["port"]): one["reason"] for one in dialled["network_refusals"]}
    assert set(told) >= {(address, 80) for address in (ULA, HOST6, PRIVATE, *DISGUISED.values())}
    assert told[DISGUISED["nat64.test"], 80] == f"it is another form of {PRIVATE}, a private address"
    destinations = sdk.do("summarize_workspace", workspace_id="net")["network"]["destinations"]
    assert {one["address"] for one in destinations} <= {WEB, WEB6}


def test_what_is_opened_of_ipv6_opens(sdk: Any, made: Any) -> None:
    made(sdk, network_policy="egress", allow_addresses=["fd12:3456::/32", DISGUISED["nat64.test"]])
    done = execute(sdk, f"get {ULA}; get ula.test; get nat64.test; get sixtofour.test")
    assert done["stdout"].splitlines() == [f"{ULA} /", f"{ULA} /", f"{DISGUISED['nat64.test']} /"]
    assert {one[0] for one in refused(done)} == {"sixtofour.test"}


def test_git_clones_and_pip_installs(sdk: Any, made: Any) -> None:
    """Both over plain HTTP from servers that the guest knows by name only, with nothing set inside."""
    made(sdk, network_policy="egress", environment="debian:12-build", allow_hosts=["web.test", "listed.test"])
    clone = "git clone -q http://web.test/git/it.git && tail -n 1 it/numbers && git -C it fsck && git -C it fetch"
    assert told(execute(sdk, clone)) == (0, "199999\n", [])
    install = "python3 -m pip install -q --no-compile --retries 1 --target /root/packages greeting"
    index = "--index-url http://listed.test/site/simple/ --trusted-host listed.test"
    done = execute(sdk, f"{install} {index} && PYTHONPATH=/root/packages python3 -m greeting")
    assert told(done) == (0, "hello from a package\n", [])
    elsewhere = execute(sdk, f"{install} --index-url http://wild.test/ --trusted-host wild.test")
    assert told(elsewhere)[:2] == (1, "")
    (refusal,) = elsewhere["network_refusals"]
    assert (refusal["name"], refusal["hint"]) == ("wild.test", "allow_hosts=['wild.test']")
    assert refusal["count"] == 1, "all the look-ups of a burst are one"


def told(done: dict[str, Any]) -> tuple[int, str, list[Any]]:
    return done["exit_code"], done["stdout"], done["network_refusals"]


OFF = f"""
import errno, socket, struct
def attempt(what, do):
    try: print(what, "worked", do())
    except socket.gaierror: print(what, "no name")
    except OSError as error: print(what, errno.errorcode.get(error.errno, error))
def tcp(family, *place):
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(1)
        sock.connect(place)
def datagram(family, kind, protocol, *place):
    with socket.socket(family, kind, protocol) as sock:
        sock.settimeout(1)
        asked = b"\\x08\\0\\xf7\\xff" + bytes(28)
        sock.sendto(asked, place)
        if asked in sock.recv(100): raise OSError("came round")
def frame(name):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((name, 0x800))
        return sock.send(bytes(12) + b"\\x08\\0" + bytes(46))
def everything(how):
    for address in ("{WEB}", "{ROUTER}", "{HOST}", "10.0.2.2", "169.254.169.254"):
        attempt(f"{{how}} tcp", lambda: tcp(socket.AF_INET, address, 80))
    for address in ("{WEB6}", "{ROUTER6}"):
        attempt(f"{{how}} tcp6", lambda: tcp(socket.AF_INET6, address, 80))
    attempt(f"{{how}} udp", lambda: datagram(socket.AF_INET, socket.SOCK_DGRAM, 0, "{ROUTER}", 53))
    attempt(f"{{how}} udp6", lambda: datagram(socket.AF_INET6, socket.SOCK_DGRAM, 0, "{ROUTER6}", 53))
    attempt(f"{{how}} ping", lambda: datagram(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP, "{WEB}", 0))
    attempt(f"{{how}} ping6", lambda: datagram(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6, "{WEB6}", 0))
    attempt(f"{{how}} ip", lambda: datagram(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW, "{WEB}", 0))
    attempt(f"{{how}} name", lambda: socket.getaddrinfo("web.test", 80))
everything("plain")
for name in ("lo", "eth0", "pyro0"):
    attempt("frame", lambda: frame(name))
for cid in (0, 1, 2, 3):
    attempt("vsock", lambda: tcp(socket.AF_VSOCK, cid, 1024))
# Default routes by the one interface there is.
def route(family):
    body = struct.pack("=8BIHHI", family, 0, 0, 0, 254, 4, 253 if family == socket.AF_INET else 0, 1, 0, 8, 4, 1)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.send(struct.pack("=IHHII", 16 + len(body), 24, 0x405, 1, 0) + body)
        code = -struct.unpack_from("=i", sock.recv(4096), 16)[0]
    if code: raise OSError(code, "refused")
for family in (socket.AF_INET, socket.AF_INET6):
    attempt("route", lambda: route(family))
everything("routed")
"""


def test_off_is_off(sdk: Any, made: Any, world: Internet) -> None:
    """As root, by every door there might be; and the host, asked by its own kernel, has sent nothing."""
    workspace = made(sdk, environment="debian:12-build")
    assert (workspace["network_policy"], workspace["guest_ip"]) == ("off", None)
    before = world.sent()
    done = execute(sdk, "ls /sys/class/net; cat /sys/bus/virtio/devices/*/device | sort -u; id -u")
    net, vsock = "0x0001", "0x0013"
    assert (done["stdout"].split()[0], done["stdout"].split()[-1]) == ("lo", "0")
    assert not {net, vsock} & set(done["stdout"].split())
    found = execute(sdk, f"python3 - <<'END'\n{OFF}\nEND")
    assert found["exit_code"] == 0, found["stderr"]
    said = found["stdout"].splitlines()
    assert [line for line in said if "worked" in line] == ["frame worked 60"] + ["route worked None"] * 2
    assert len(said) == 13 * 2 + 3 + 4 + 2
    assert world.sent() == before


def test_it_goes_on_after_a_restart_and_with_the_next_node(sdk: Any, made: Any, online: dict[str, str]) -> None:
    made(sdk, network_policy="egress", allow_hosts=["web.test"])
    sdk.do("stop_workspace", workspace_id="net")
    sdk.do("start_workspace", workspace_id="net")
    assert execute(sdk, "get web.test; get wild.test")["stdout"] == f"{WEB} /\n"
    # The record is written in batches; a node that is killed loses the last one.
    until(lambda: allowed(sdk) == 1)
    end_node(online)
    subprocess.run([*online["PREFIX"].split("\n"), *PYRO, "env", "list"], env=online, check=True, capture_output=True)
    done = execute(sdk, "get web.test; get wild.test")
    assert (done["stdout"], refused(done)) == (f"{WEB} /\n", {("wild.test", None, None)})
    until(lambda: allowed(sdk) == 2)


def allowed(sdk: Any) -> int:
    return int(sdk.do("summarize_workspace", workspace_id="net")["network"]["totals"]["allowed"])


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


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
        ({"allow_hosts": ["a b"]}, "cannot use allow_hosts 'a b'"),
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
