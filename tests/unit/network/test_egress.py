"""Egress: what is dialled is what was judged; every way out is recorded; nothing hostile ends it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_mcp.guest.net import egress as carrier
from pyro_mcp.guest.net import resolver
from pyro_mcp.network import egress as module
from pyro_mcp.network.addresses import parse
from pyro_mcp.network.policy import Policy
from pyro_mcp.protocol.channel import MAX_STREAMS, ChannelClosed, Data, End, RemoteError, StreamResult

HERE = Policy.read("egress", None, ["127.0.0.1"])
PUBLIC = "93.184.216.34"


def until(met: Any) -> None:
    deadline = time.monotonic() + 20
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_connection_carries_both_ways_and_is_recorded(new_guest: Any, server: socket.socket) -> None:
    guest = new_guest(HERE, {"here.test": ["127.0.0.1"]})
    assert guest.resolve("Here.TEST.") == ["127.0.0.1"]
    stream = guest.connect("127.0.0.1", server.getsockname()[1])
    peer, _ = server.accept()
    stream.send(b"question")
    stream.end()
    assert b"".join(iter(lambda: peer.recv(100), b"")) == b"question"
    peer.sendall(b"long answer")
    peer.close()
    got, ended = b"", False
    while not isinstance(message := stream.receive(20), StreamResult):
        got += message.data if isinstance(message, Data) else b""
        ended = ended or isinstance(message, End)
    assert (got, ended, message.value) == (b"long answer", True, {})
    until(lambda: guest.egress.open_count == 0)
    (entry,) = guest.recorded()
    assert (entry.verdict, entry.name, entry.address, entry.port) == (
        "allowed",
        "here.test",
        "127.0.0.1",
        server.getsockname()[1],
    )
    assert (entry.bytes_in, entry.bytes_out) == (11, 8)
    assert entry.duration_ms is not None


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1", "the host itself"),
        ("::1", "the host itself"),
        ("::ffff:127.0.0.1", "the host itself"),
        ("::ffff:7f00:1", "the host itself"),
        ("64:ff9b::7f00:1", "another form of 127.0.0.1"),
        ("0.0.0.0", "the host itself"),
        ("::", "the host itself"),
        ("10.0.0.1", "a private address"),
        ("169.254.169.254", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("100.100.100.200", "metadata"),
        ("192.0.0.192", "metadata"),
        ("fe80::1", "link-local"),
        ("224.0.0.1", "multicast"),
    ],
)
def test_what_is_not_public_is_refused_before_anything_is_sent(
    new_guest: Any, server: socket.socket, address: str, words: str
) -> None:
    guest = new_guest(Policy("egress"))
    refusal = guest.refusal("net_connect", address=address, port=server.getsockname()[1])
    assert (refusal["code"], words in refusal["message"]) == ("permission", True)
    (entry,) = guest.recorded()
    assert (entry.verdict, entry.port) == ("refused", server.getsockname()[1])
    server.settimeout(0)
    with pytest.raises(BlockingIOError):
        server.accept()


def test_an_address_of_this_host_is_refused_even_if_public(new_guest: Any) -> None:
    guest = new_guest(Policy("egress"), route=lambda address: "here")
    assert "an address of this host" in guest.refusal("net_connect", address=PUBLIC, port=80)["message"]
    guest = new_guest(Policy("egress"), route=lambda address: "here" if address.version == 4 else "away")
    assert guest.refusal("net_connect", address="2002:5db8:d822::1", port=80)["code"] == "permission"


def test_when_the_kernel_does_not_say_it_is_refused(new_guest: Any) -> None:
    def broken(address: Any) -> Any:
        raise OSError(5, "Input/output error")

    assert (
        new_guest(Policy("egress"), route=broken).refusal("net_connect", address=PUBLIC, port=80)["code"]
        == "permission"
    )


def test_a_name_that_flips_is_judged_each_time(new_guest: Any, server: socket.socket) -> None:
    """DNS rebinding: public when looked at, loopback when used."""
    guest = new_guest(Policy("egress"), {"flip.test": [[PUBLIC], ["127.0.0.1"]]})
    assert guest.resolve("flip.test") == [PUBLIC]
    refusal = guest.refusal("net_resolve", name="flip.test", family=4)
    assert (refusal["code"], refusal["hint"]) == ("permission", "<<create_workspace.allow_addresses=127.0.0.1>>")
    assert guest.refusal("net_connect", address="127.0.0.1", port=server.getsockname()[1])["code"] == "permission"


def test_answers_hold_only_what_may_be_dialled(new_guest: Any) -> None:
    guest = new_guest(
        Policy("egress"), {"mixed.test": ["10.0.0.1", PUBLIC, "127.0.0.1"], "six.test": ["fd00::1", PUBLIC]}
    )
    assert guest.resolve("mixed.test") == [PUBLIC]
    assert guest.resolve("six.test", 6) == []
    assert guest.resolve("six.test", 4) == [PUBLIC]
    assert guest.resolve("mixed.test", 6) == []


def test_host_names_narrow(new_guest: Any, server: socket.socket) -> None:
    port = server.getsockname()[1]
    names = {"good.test": ["127.0.0.1"], "bad.test": ["127.0.0.1"], "a.wild.test": [PUBLIC], "wild.test": [PUBLIC]}
    guest = new_guest(Policy.read("egress", ["good.test", "*.wild.test"], ["127.0.0.1"]), names)
    bare = guest.refusal("net_connect", address="127.0.0.1", port=port)
    assert (bare["code"], "no recent answer" in bare["message"]) == ("permission", True)
    for name in ("bad.test", "wild.test", "good.test.evil.test", "xgood.test"):
        refusal = guest.refusal("net_resolve", name=name, family=4)
        assert (refusal["code"], refusal["hint"]) == ("permission", f"<<create_workspace.allow_hosts={name}>>")
    assert guest.asked == []
    assert guest.resolve("good.test") == ["127.0.0.1"]
    guest.connect("127.0.0.1", port).cancel()
    assert guest.resolve("a.wild.test") == [PUBLIC]


def test_an_empty_list_allows_nothing(new_guest: Any) -> None:
    guest = new_guest(Policy.read("egress", [], ["127.0.0.1"]), {"good.test": [PUBLIC]})
    assert guest.refusal("net_resolve", name="good.test", family=4)["code"] == "permission"
    assert guest.refusal("net_connect", address=PUBLIC, port=80)["code"] == "permission"
    assert guest.asked == []


def test_the_name_that_is_matched_is_the_name_that_is_looked_up(new_guest: Any) -> None:
    guest = new_guest(Policy.read("egress", ["xn--bcher-kva.test"]), {"xn--bcher-kva.test": [PUBLIC]})
    for name in ("bücher.test", "BÜCHER.test.", "XN--BCHER-KVA.test"):
        assert guest.resolve(name) == [PUBLIC]
    assert set(guest.asked) == {("xn--bcher-kva.test", 4)}
    for name in ("good.test\0.evil", "a b", "user@good.test", "127.1", "0x7f000001", "2130706433", "", "a" * 300):
        assert guest.refusal("net_resolve", name=name, family=4)["code"] == "permission"


def test_unknown_and_unanswered_names(new_guest: Any) -> None:
    guest = new_guest(Policy("egress"))
    assert guest.refusal("net_resolve", name="nobody.test", family=4)["code"] == "not_found"
    assert guest.recorded() == []


def test_failures_are_honest_and_recorded(new_guest: Any) -> None:
    guest = new_guest(HERE)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    for _ in range(3):
        assert guest.refusal("net_connect", address="127.0.0.1", port=port)["code"] == "refused"
    (entry,) = guest.recorded()
    assert (entry.verdict, entry.reason, entry.count) == ("failed", "Connection refused", 3)


def test_a_reset_is_no_end(new_guest: Any, server: socket.socket) -> None:
    guest = new_guest(HERE)
    stream = guest.connect("127.0.0.1", server.getsockname()[1])
    peer, _ = server.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    peer.close()
    with pytest.raises(RemoteError) as caught:
        list(stream.messages())
    assert caught.value.payload["code"] == "reset"


def test_no_more_connections_than_there_may_be(
    new_guest: Any, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECTIONS_MAX", 2)
    guest = new_guest(HERE)
    port = server.getsockname()[1]
    held = [guest.connect("127.0.0.1", port) for _ in range(2)]
    assert guest.refusal("net_connect", address="127.0.0.1", port=port)["code"] == "capacity"
    (refused,) = [entry for entry in guest.recorded() if entry.verdict == "refused"]
    assert "2 connections are under way" in refused.reason
    held[0].cancel()
    until(lambda: guest.egress.open_count == 1)
    guest.connect("127.0.0.1", port)


def test_it_is_the_host_that_says_what_is_one_too_many() -> None:
    """An agent that refused by itself could tell nobody but the program, and that only as "no route to host"."""
    assert carrier.MOST > module.CONNECTIONS_MAX
    assert resolver.MAX_QUESTIONS <= module.LOOKUPS_MAX
    assert carrier.MOST + resolver.MAX_QUESTIONS < MAX_STREAMS


def test_everything_ends_with_the_machine(new_guest: Any, server: socket.socket) -> None:
    guest = new_guest(HERE)
    guest.connect("127.0.0.1", server.getsockname()[1])
    peer, _ = server.accept()
    with peer:
        peer.settimeout(20)
        guest.host.close("the machine is gone")
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(1) == b""
    until(lambda: guest.egress.open_count == 0)
    assert [entry.verdict for entry in guest.recorded()] == ["allowed"]


def test_a_machine_that_goes_before_it_is_told_keeps_nothing(new_guest: Any, server: socket.socket) -> None:
    class Gone:
        verb = "net_connect"
        params: ClassVar = {"address": "127.0.0.1", "port": server.getsockname()[1]}

        def on_cancel(self, callback: Any) -> None:
            """It comes too late for the dialling."""

        def event(self, value: Any) -> None:
            raise ChannelClosed("the machine is gone")

    guest = new_guest(HERE)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ChannelClosed):
        guest.egress.handle(Gone())
    assert len(os.listdir("/proc/self/fd")) == before
    assert guest.egress.open_count == 0
    assert [(entry.verdict, entry.duration_ms is not None) for entry in guest.recorded()] == [("allowed", True)]


def test_what_is_secret_is_not_written_down(new_guest: Any) -> None:
    def mask(text: str) -> str:
        return text.replace("hunter2", "***")

    guest = new_guest(Policy("egress"), {"hunter2.evil.test": ["10.0.0.1"]}, mask=mask)
    refusals = [guest.refusal("net_resolve", name="hunter2.evil.test", family=4)]
    narrow = new_guest(Policy.read("egress", []), mask=mask)
    refusals.append(narrow.refusal("net_resolve", name="hunter2.evil.test", family=4))
    assert "hunter2" not in str(refusals)
    assert "hunter2" not in str([vars(entry) for entry in guest.recorded() + narrow.recorded()])


ODD = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers(), max_size=2)


@given(
    name=ODD, family=ODD | st.sampled_from([4, 6]), address=ODD | st.just(PUBLIC), port=ODD, verb=st.text(max_size=20)
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_nothing_hostile_is_answered_with_anything_but_a_refusal(
    new_guest: Any, monkeypatch: pytest.MonkeyPatch, name: Any, family: Any, address: Any, port: Any, verb: str
) -> None:
    blown: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: blown.append(error))
    monkeypatch.setattr(module, "dial", lambda *_: (_ for _ in ()).throw(ConnectionRefusedError(111, "refused")))
    guest = new_guest(Policy("egress"))
    allowed = {"invalid_argument", "permission", "not_found", "refused", "unsupported"}
    for asked, params in (
        ("net_resolve", {"name": name, "family": family}),
        ("net_connect", {"address": address, "port": port}),
        (verb, {}),
    ):
        assert guest.refusal(asked, **params)["code"] in allowed
    assert blown == []
    guest.close()


def test_many_at_once(new_guest: Any, server: socket.socket) -> None:
    guest = new_guest(HERE)
    port = server.getsockname()[1]

    def echo() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = server.accept()
                peer.sendall(peer.recv(100))
                peer.close()

    threading.Thread(target=echo, daemon=True).start()
    streams = [guest.connect("127.0.0.1", port) for _ in range(50)]
    for number, stream in enumerate(streams):
        stream.send(f"{number}".encode())
    for number, stream in enumerate(streams):
        message = stream.receive(20)
        assert message.data == f"{number}".encode()
    server.close()


def test_the_parsed_form_is_what_is_dialled(new_guest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[Any] = []

    def dial(address: Any, port: int, on_cancel: Any) -> Any:
        dialled.append(address)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(module, "dial", dial)
    guest = new_guest(Policy("egress"))
    guest.refusal("net_connect", address=f"::ffff:{PUBLIC}", port=80)
    assert dialled == [parse(PUBLIC)]
