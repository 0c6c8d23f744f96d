"""Networks in the engine: what is asked for is kept, handed to the machine, recorded, told, and outlives the node."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fleetlab import SIZE, CallRecorder, engine_at

from pyro_mcp.api.workspace import create_workspace
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import InvalidArgument, NotFound, PermissionDenied, PyroError, Unsupported
from pyro_mcp.machines.driver import MachineSpec, NetworkLink
from pyro_mcp.machines.host.driver import HostDriver
from pyro_mcp.node.adopt import reconcile

PRIVATE = "10.0.0.1"


class Netted(HostDriver):
    """Machines that promise to hold what runs there to a policy; the tests speak for the guest."""

    capabilities = replace(HostDriver.capabilities, network=True)

    def __init__(self) -> None:
        self.links: dict[str, NetworkLink | None] = {}

    def launch(self, spec: MachineSpec, progress: Any) -> Any:
        self.links[spec.machine_id] = spec.network
        return super().launch(spec, progress)

    def adopt(self, machine_id: str, directory: Path, network: NetworkLink | None = None) -> Any:
        self.links[machine_id] = network
        return super().adopt(machine_id, directory, network)

    def asks(self, machine_id: str, verb: str, **params: Any) -> Any:
        """What the guest gets for opening a stream."""
        link = self.links[machine_id]
        assert link is not None
        told: list[Any] = []
        link.handler(SimpleNamespace(verb=verb, params=params, result=told.append, on_cancel=lambda _: None))  # type: ignore[arg-type]
        return told[0]


@pytest.fixture
def driver() -> Netted:
    return Netted()


@pytest.fixture
def engine(tmp_path: Path, driver: Netted) -> Iterator[Engine]:
    engine = engine_at(tmp_path / "state", driver=driver)
    yield engine
    for row in engine.registry.rows():
        engine.lifecycle.delete(row.workspace_id)
    for machine in engine.fleet.rows():
        engine.fleet.remove(machine.machine_id, "the test is over")
    engine.close()


def create(engine: Engine, **options: Any) -> Any:
    given = {"environment": "debian:12", "name": "w", "mem_mib": 128, "allow_host_compat": True, **options}
    return create_workspace.function(CallRecorder(engine).call, **given)


def execute(engine: Engine, command: str, **options: Any) -> Any:
    given = {"timeout_seconds": 60, "wait_seconds": None, "stdin": None, **options}
    return engine.commands.exec(CallRecorder(engine).call, "w", command=command, **given)


def knock(driver: Netted, machine_id: str, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(PermissionDenied):
            driver.asks(machine_id, "net_connect", address=PRIVATE, port=80)


def test_what_is_asked_for_is_shown_and_in_force(engine: Engine, driver: Netted) -> None:
    made = create(
        engine, network_policy="egress", allow_hosts=["Good.Test", "*.good.test"], allow_addresses=["10.0.0.0/8"]
    )
    assert (made.network_policy, made.network_enabled) == ("egress", True)
    assert (made.allow_hosts, made.allow_addresses, made.host_ca) == (
        ["good.test", "*.good.test"],
        ["10.0.0.0/8"],
        False,
    )
    machine_id = made.metadata["machine_id"]
    with pytest.raises(PermissionDenied, match="not among the allowed"):
        driver.asks(machine_id, "net_resolve", name="bad.test", family=4)
    info = engine.vms.network(machine_id)
    assert (info.network_policy, info.enforced, info.allow_hosts) == ("egress", True, ["good.test", "*.good.test"])
    assert (info.totals.refused, info.open_connections) == (1, 0)


def test_off_is_no_link_at_all(engine: Engine, driver: Netted) -> None:
    made = create(engine)
    assert (made.network_enabled, made.allow_hosts, made.guest_ip) == (False, None, None)
    assert driver.links == {made.metadata["machine_id"]: None}


def test_a_refusal_reaches_the_command_that_ran(engine: Engine, driver: Netted, tmp_path: Path) -> None:
    machine_id = create(engine, network_policy="egress").metadata["machine_id"]
    knock(driver, machine_id)
    done: list[Any] = []
    started, go = tmp_path / "started", tmp_path / "go"
    command = f"touch {started}; until [ -e {go} ]; do sleep 0.02; done"
    thread = threading.Thread(target=lambda: done.append(execute(engine, command)))
    thread.start()
    while not started.exists():
        thread.join(0.01)
    knock(driver, machine_id, 3)
    go.touch()
    thread.join()
    (refusal,) = done[0].network_refusals
    assert (refusal.name, refusal.address, refusal.port, refusal.count) == (None, PRIVATE, 80, 3)
    assert (refusal.reason, refusal.hint) == (
        "it is a private address",
        f"<<create_workspace.allow_addresses={PRIVATE}>>",
    )
    assert execute(engine, "true").network_refusals == []
    logs = engine.commands.logs(
        CallRecorder(engine).call, "w", sequence=None, cursor=None, wait_seconds=None, end=False, limit=9
    )
    assert [len(entry.network_refusals) for entry in logs.entries] == [1, 0]


def test_the_summary_tells_what_went_and_what_did_not(engine: Engine, driver: Netted) -> None:
    machine_id = create(engine, network_policy="egress").metadata["machine_id"]
    knock(driver, machine_id, 5)
    network = engine.summaries.summarize(CallRecorder(engine).call, "w").network
    assert (network.network_policy, network.enforced, network.totals.refused) == ("egress", True, 5)
    assert [(one.address, one.count) for one in network.refusals] == [(PRIVATE, 5)]


def test_a_reset_clears_the_record_and_keeps_the_policy(engine: Engine, driver: Netted) -> None:
    first = create(engine, network_policy="egress", allow_hosts=["good.test"]).metadata["machine_id"]
    knock(driver, first)
    renewed = engine.snapshots.reset(CallRecorder(engine).call, "w", "baseline")
    second = renewed.metadata["machine_id"]
    assert (renewed.allow_hosts, second != first) == (["good.test"], True)
    assert engine.summaries.summarize(CallRecorder(engine).call, "w").network.totals.refused == 0
    with pytest.raises(PermissionDenied):
        driver.asks(second, "net_resolve", name="bad.test", family=4)


def test_stop_and_start_keep_both(engine: Engine, driver: Netted) -> None:
    machine_id = create(engine, network_policy="egress").metadata["machine_id"]
    knock(driver, machine_id)
    engine.lifecycle.stop("w")
    assert engine.summaries.summarize(CallRecorder(engine).call, "w").network.totals.refused == 1
    engine.lifecycle.start(CallRecorder(engine).call, "w")
    knock(driver, machine_id)
    assert engine.summaries.summarize(CallRecorder(engine).call, "w").network.totals.refused == 2


def test_the_next_node_goes_on_with_it(tmp_path: Path) -> None:
    driver = Netted()
    engine = engine_at(tmp_path / "state", driver=driver)
    machine_id = create(engine, network_policy="egress", allow_hosts=["good.test"]).metadata["machine_id"]
    knock(driver, machine_id)
    engine.close()
    driver = Netted()
    engine = engine_at(tmp_path / "state", driver=driver)
    reconcile(engine)
    assert engine.lifecycle.status("w").allow_hosts == ["good.test"]
    with pytest.raises(PermissionDenied):
        driver.asks(machine_id, "net_resolve", name="bad.test", family=4)
    assert engine.vms.network(machine_id).totals.refused == 2
    engine.lifecycle.delete("w")
    engine.close()


def test_a_policy_that_cannot_be_read_any_more_allows_nothing(engine: Engine, driver: Netted) -> None:
    machine_id = create(engine, network_policy="egress").metadata["machine_id"]
    engine.lifecycle.stop("w")
    with engine.database.transaction() as connection:
        broken = json.dumps({"mode": "egress", "allow_hosts": 5})
        connection.execute("UPDATE machines SET network=:network", {"network": broken})
        connection.execute("UPDATE workspaces SET network=:network", {"network": broken})
    engine.networks.forget(machine_id)
    engine.lifecycle.start(CallRecorder(engine).call, "w")
    assert engine.lifecycle.status("w").allow_hosts == []
    with pytest.raises(PermissionDenied):
        driver.asks(machine_id, "net_resolve", name="good.test", family=4)
    with pytest.raises(PermissionDenied):
        driver.asks(machine_id, "net_connect", address="8.8.8.8", port=80)


def test_secrets_do_not_get_into_the_record(engine: Engine, driver: Netted, tmp_path: Path) -> None:
    machine_id = create(engine, network_policy="egress", allow_hosts=[], secrets={"TOKEN": "canary-canary"}).metadata[
        "machine_id"
    ]
    with pytest.raises(PermissionDenied):
        driver.asks(machine_id, "net_resolve", name="canary-canary.evil.test", family=4)
    network = engine.summaries.summarize(CallRecorder(engine).call, "w").network
    assert network.totals.refused == 1
    assert "canary-canary" not in str(network)
    engine.networks.close()
    held = b"".join(path.read_bytes() for path in (tmp_path / "state").glob("pyro.db*"))
    assert b"canary-canary" not in held


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"allow_hosts": ["a b"], "network_policy": "egress"}, InvalidArgument),
        ({"allow_addresses": ["10.0.0.5/8"], "network_policy": "egress"}, InvalidArgument),
        ({"allow_hosts": []}, InvalidArgument),
        ({"host_ca": True}, InvalidArgument),
        ({"host_ca": True, "network_policy": "egress"}, NotFound),
    ],
)
def test_what_cannot_be_used_is_refused_when_created(
    tmp_path: Path, options: dict[str, Any], error: type[PyroError]
) -> None:
    engine = engine_at(tmp_path / "state", driver=Netted(), ca_file=tmp_path / "none.pem")
    with pytest.raises(error):
        create(engine, **options)
    assert engine.registry.rows() == []
    assert engine.fleet.rows() == []
    engine.close()


def test_certificates_are_read_at_each_start_and_nothing_else_of_the_file(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    one = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    bundle.write_text(f"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n# note\n{one}")
    driver = Netted()
    engine = engine_at(tmp_path / "state", driver=driver, ca_file=bundle)
    made = create(engine, network_policy="egress", host_ca=True)
    machine_id = made.metadata["machine_id"]
    link = driver.links[machine_id]
    assert made.host_ca is True
    assert link is not None
    assert link.ca == one.encode()
    engine.lifecycle.stop("w")
    bundle.write_text(one * 2)
    engine.lifecycle.start(CallRecorder(engine).call, "w")
    link = driver.links[machine_id]
    assert link is not None
    assert link.ca == (one * 2).encode()
    bundle.write_text("nothing")
    engine.lifecycle.stop("w")
    with pytest.raises(InvalidArgument, match="no certificate"):
        engine.lifecycle.start(CallRecorder(engine).call, "w")
    engine.lifecycle.delete("w")
    engine.close()


def test_a_plain_process_is_held_to_nothing_and_says_so(tmp_path: Path) -> None:
    engine = engine_at(tmp_path / "state")
    recorder = CallRecorder(engine)
    made = create_workspace.function(
        recorder.call, environment="debian:12", name="w", network_policy="egress", mem_mib=128, allow_host_compat=True
    )
    assert any("enforces no network policy" in notice for notice in recorder.notices)
    assert "enforces no network policy" in made.metadata["network"]
    info = engine.vms.network(made.metadata["machine_id"])
    assert (info.network_policy, info.enforced, info.guest_ip) == ("egress", False, None)
    with pytest.raises(Unsupported, match="cannot narrow"):
        create(engine, name="x", network_policy="egress", allow_hosts=["good.test"])
    plain = create(engine, name="y")
    assert engine.vms.network(plain.metadata["machine_id"]).enforced is False
    for name in ("w", "y"):
        engine.lifecycle.delete(name)
    engine.close()


def test_one_shots_are_told_and_not_recorded(engine: Engine, driver: Netted) -> None:
    recorder = CallRecorder(engine)

    def meanwhile() -> None:
        recorder.wrote.wait(30)
        knock(driver, next(iter(driver.links)))
        (engine.settings.state_dir / "go").touch()

    thread = threading.Thread(target=meanwhile)
    thread.start()
    wait = f"echo up; until [ -e {engine.settings.state_dir}/go ]; do sleep 0.02; done"
    size = {**SIZE, "network": True}
    done = engine.vms.run(recorder.call, "debian:12", command=wait, timeout_seconds=60, stdin=None, **size)
    thread.join()
    assert [one.address for one in done.network_refusals] == [PRIVATE]
    assert engine.database.rows("SELECT * FROM connections") == []
