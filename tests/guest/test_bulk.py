"""Bulk data into and out of real guests, beside commands, cancelled, through a node's death, on a full disk."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyro_mcp.machines import exchange
from pyro_mcp.machines.driver import MachineSpec, WorkspaceMount
from pyro_mcp.machines.qemu.driver import QemuDriver, QemuMachine
from pyro_mcp.protocol.channel import Channel, ChannelClosed, Data, RemoteError, Stream, StreamResult
from pyro_mcp.protocol.entries import Encoder, Entry, EntryDecoder, Piece
from pyro_mcp.protocol.exchange import DISK_BYTES
from pyro_mcp.system.progress import silent

pytestmark = pytest.mark.guest

MIB = 1024 * 1024
DATA = os.urandom(24 * MIB + 12345)
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def born(driver: QemuDriver, new_spec: Callable[..., MachineSpec]) -> Iterator[tuple[MachineSpec, QemuMachine]]:
    spec = dataclasses.replace(new_spec(scratch_mib=256), workspace=WorkspaceMount())
    machine = driver.launch(spec, silent)
    yield spec, machine
    machine.terminate()


def begin(channel: Channel, verb: str, params: dict[str, Any], pieces: list[bytes] | None = None) -> Stream:
    """Ask; what is to be sent is sent on a thread of its own, until nobody takes it any more."""
    stream = channel.open(verb, params)

    def run() -> None:
        try:
            for piece in pieces or ():
                stream.send(piece)
            stream.end()
        except ChannelClosed:
            pass

    threading.Thread(target=run, daemon=True).start()
    return stream


def finish(stream: Stream) -> tuple[dict[str, Any], bytes]:
    output = bytearray()
    for message in stream.messages():
        if isinstance(message, Data):
            output += message.data
        elif isinstance(message, StreamResult):
            return message.value, bytes(output)
    raise AssertionError("no result")


def command(machine: QemuMachine, line: str, data: bytes | None = None) -> Stream:
    params = {"argv": ["sh", "-ec", line], "env": {}, "timeout_seconds": 120, "stdin": data is not None}
    return begin(machine.channel, "exec", params, None if data is None else [data])


def sh(machine: QemuMachine, line: str, data: bytes | None = None) -> bytes:
    result, output = finish(command(machine, line, data))
    assert result["exit_code"] == 0, output
    return output


def tree(data: bytes, step: int = MIB) -> list[bytes]:
    """`data` as the only file of a tree, as it travels."""
    pieces: list[bytes] = []
    encoder = Encoder(lambda piece: pieces.append(bytes(piece)))
    encoder.entry(Entry("big", "file", 0o644, size=len(data)))
    for at in range(0, len(data), step):
        encoder.data(data[at : at + step])
    encoder.finish()
    return pieces


def content(output: bytes) -> bytes:
    decoder = EntryDecoder()
    found = b"".join(bytes(item.data) for item in decoder.feed(output) if isinstance(item, Piece))
    decoder.close()
    return found


def allocated(spec: MachineSpec, machine: QemuMachine) -> int:
    """What the exchange takes on the host, once both sides have dealt with all that was said."""
    machine.channel.ping()
    return (spec.directory / exchange.NAME).stat().st_blocks * 512


def count_wire(machine: QemuMachine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each write to the guest's port."""
    pipe, seen = machine.channel._pipe, []
    write = pipe.write_all

    def counted(parts: Any, **options: Any) -> None:
        seen.append(sum(map(len, parts)))
        write(parts, **options)

    monkeypatch.setattr(pipe, "write_all", counted)
    return seen


def test_streams_both_ways_arrive_whole_beside_commands(born: tuple[MachineSpec, QemuMachine]) -> None:
    spec, machine = born
    inward = command(machine, "sha256sum", DATA)
    both = command(machine, "cat", DATA)
    for number in range(12):
        assert sh(machine, f"echo {number}") == b"%d\n" % number
    outward = command(machine, f"head -c {len(DATA)} /dev/zero")
    assert finish(inward)[1].split()[0].decode() == DIGEST
    assert hashlib.sha256(finish(both)[1]).hexdigest() == DIGEST
    assert finish(outward)[1] == bytes(len(DATA))
    assert allocated(spec, machine) == 0


def test_an_exec_beside_a_transfer_finds_the_port_empty(
    born: tuple[MachineSpec, QemuMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transfer of 24 MiB puts some kilobytes on the port, so what comes meanwhile waits for none of it."""
    _, machine = born
    seen = count_wire(machine, monkeypatch)
    sh(machine, "cat > /dev/null", DATA)
    result, _ = finish(begin(machine.channel, "tree_unpack", {"dest": "t"}, tree(DATA)))
    assert result["bytes_written"] == len(DATA)
    assert sum(seen) < 256 * 1024
    assert max(seen) < 64 * 1024


@pytest.mark.parametrize("step", [MIB, 100_000])
def test_a_large_file_goes_in_and_out_as_a_tree(born: tuple[MachineSpec, QemuMachine], step: int) -> None:
    """Also in pieces that lie on no whole blocks."""
    spec, machine = born
    finish(begin(machine.channel, "tree_unpack", {"dest": "t"}, tree(DATA, step)))
    assert sh(machine, "cat /workspace/t/big | sha256sum").split()[0].decode() == DIGEST
    _, output = finish(begin(machine.channel, "tree_pack", {"path": "t"}))
    assert hashlib.sha256(content(output)).hexdigest() == DIGEST
    assert allocated(spec, machine) == 0


def test_a_large_file_is_written_and_read_by_itself(born: tuple[MachineSpec, QemuMachine]) -> None:
    _, machine = born
    finish(begin(machine.channel, "file_write", {"path": "big", "size": len(DATA)}, [DATA]))
    assert sh(machine, "sha256sum < /workspace/big").split()[0].decode() == DIGEST
    answer, output = finish(begin(machine.channel, "file_read", {"path": "big", "max_bytes": 1 << 30}))
    assert hashlib.sha256(output).hexdigest() == DIGEST
    assert answer["size_bytes"] == len(DATA)
    assert not answer["truncated"]
    # What is still in the page cache only, or was changed in the middle, is read all the same.
    sh(machine, "printf changed | dd of=/workspace/big bs=1 seek=5000000 conv=notrunc 2>/dev/null")
    changed = DATA[:5000000] + b"changed" + DATA[5000007:]
    _, output = finish(begin(machine.channel, "file_read", {"path": "big", "max_bytes": 1 << 30}))
    assert output == changed


def test_a_transfer_cancelled_in_the_middle_leaves_nothing(born: tuple[MachineSpec, QemuMachine]) -> None:
    spec, machine = born
    for verb, params, pieces in (
        ("tree_unpack", {"dest": "t"}, tree(DATA)),
        ("file_write", {"path": "big", "size": len(DATA)}, [DATA]),
    ):
        stream = machine.channel.open(verb, params)
        for piece in pieces[: max(1, len(pieces) // 2)]:
            stream.send(piece[: 6 * MIB])
        stream.cancel()
        with pytest.raises(RemoteError, match="cancelled"):
            finish(stream)
    stalled = machine.channel.open("exec", {"argv": ["sleep", "100"], "env": {}, "stdin": True})
    stalled.send(bytes(MIB))
    stalled.cancel()
    finish(stalled)
    assert sh(machine, "ls -A /workspace") == b""
    assert sh(machine, "sha256sum", DATA).split()[0].decode() == DIGEST
    assert allocated(spec, machine) == 0


def test_a_reader_who_does_not_read_holds_nobody_up(born: tuple[MachineSpec, QemuMachine]) -> None:
    _, machine = born
    unread = [command(machine, f"head -c {16 * MIB} /dev/zero") for _ in range(3)]
    deaf = [machine.channel.open("exec", {"argv": ["sleep", "100"], "env": {}, "stdin": True}) for _ in range(3)]
    feeders = [threading.Thread(target=_pour, args=(stream,), daemon=True) for stream in deaf]
    for feeder in feeders:
        feeder.start()
    assert sh(machine, "sha256sum", DATA).split()[0].decode() == DIGEST
    assert all(feeder.is_alive() for feeder in feeders)
    for stream in unread:
        assert finish(stream)[1] == bytes(16 * MIB)
    for stream in deaf:
        stream.cancel()
        finish(stream)


def _pour(stream: Stream) -> None:
    try:
        stream.send(bytes(16 * MIB))
    except ChannelClosed:
        pass


def test_a_node_killed_in_the_middle_of_transfers_is_followed_by_one_that_finds_all_free(
    born: tuple[MachineSpec, QemuMachine], driver: QemuDriver
) -> None:
    spec, machine = born
    finish(begin(machine.channel, "file_write", {"path": "big", "size": len(DATA)}, [DATA]))
    under_way = [
        begin(machine.channel, "tree_unpack", {"dest": "t"}, tree(DATA)),
        begin(machine.channel, "file_read", {"path": "big", "max_bytes": 1 << 30}),
        command(machine, "cat", DATA),
    ]
    under_way[1].receive(30)
    # As a kill does it: the socket is gone, and what lies on the disk stays there.
    machine.channel.close("the node was killed")
    again = driver.adopt(spec.machine_id, spec.directory)
    assert again is not None
    for _ in range(3):
        assert sh(again, "sha256sum", DATA).split()[0].decode() == DIGEST
        assert hashlib.sha256(sh(again, "cat /workspace/big")).hexdigest() == DIGEST
    assert sh(again, "ls /workspace") == b"big\n"
    assert allocated(spec, again) == 0


def test_a_large_file_that_does_not_fit_is_refused_and_leaves_nothing(born: tuple[MachineSpec, QemuMachine]) -> None:
    _, machine = born
    big = os.urandom(MIB)
    for verb, params, pieces in (
        ("file_write", {"path": "big", "size": 300 * MIB}, [big] * 300),
        ("tree_unpack", {"dest": "t"}, tree(big * 300)),
    ):
        with pytest.raises(RemoteError) as refused:
            finish(begin(machine.channel, verb, params, pieces))
        assert refused.value.payload["code"] == "disk_full"
    assert sh(machine, "ls -A /workspace") == b""


def test_the_exchange_is_in_nobodys_way(born: tuple[MachineSpec, QemuMachine]) -> None:
    _, machine = born
    sh(machine, f"for disk in /dev/vd*; do test $(blockdev --getsize64 $disk) != {DISK_BYTES} || exit 1; done")


def test_a_guest_that_spoils_the_disk_harms_its_own_transfers_only(born: tuple[MachineSpec, QemuMachine]) -> None:
    """Root in the guest may write what it likes onto the exchange; the file on the host keeps its size and bounds."""
    spec, machine = born
    find = "number=$(cat $(dirname $(grep -lx exchange /sys/block/vd*/serial))/dev)"
    sh(machine, f"{find}; mknod /dev/spoilt b ${{number%:*}} ${{number#*:}}; cat /dev/urandom > /dev/spoilt || sync")
    path = spec.directory / exchange.NAME
    assert path.stat().st_size == DISK_BYTES
    assert DISK_BYTES // 2 < path.stat().st_blocks * 512 <= DISK_BYTES + MIB
    assert sh(machine, "sha256sum", DATA).split()[0].decode() == DIGEST
    assert sh(machine, "head -c 3000000 /dev/zero") == bytes(3000000)
