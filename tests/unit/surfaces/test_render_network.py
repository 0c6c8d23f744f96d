"""The network for a person: each refusal names what would allow it, and nothing from a guest acts on the terminal."""

from __future__ import annotations

import pytest

from pyro_mcp.model.network import (
    NetworkDestination,
    NetworkFailure,
    NetworkRefusal,
    NetworkTotals,
    SummaryNetwork,
)
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.cli.render.network import place, summed, tell_refusals

NO = NetworkRefusal(
    name="a.test", address="10.0.0.1", port=80, reason="it is private", hint="--allow-address 10.0.0.1", count=2
)


def test_refusals_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    tell_refusals([NO], Output(as_json=False))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "pyro: network: refused a.test:80 (10.0.0.1) (2 times): it is private; allow it with --allow-address 10.0.0.1"
        " on workspace create\n"
    )
    tell_refusals([NO], Output(as_json=False), where="")
    assert capsys.readouterr().err.endswith("; allow it with --allow-address 10.0.0.1\n")


def test_places() -> None:
    assert place(None, "2600::1", 443) == "[2600::1]:443"
    assert place("a.test", None, None) == "a.test"
    assert "\x1b" not in place("\x1b[2Ja", None, None)


def test_a_summary_has_one_line_without_a_network_and_all_of_them_with_one() -> None:
    assert list(summed(SummaryNetwork())) == ["network    off"]
    assert list(summed(SummaryNetwork(enforced=False))) == ["network    this host's: host_compat enforces no policy"]
    network = SummaryNetwork(
        network_policy="egress",
        totals=NetworkTotals(allowed=3, refused=2, failed=1, bytes_in=2048, bytes_out=10),
        refusals=[NO],
        failures=[NetworkFailure(name=None, address="8.8.8.8", port=1, reason="timed out", count=1)],
        destinations=[
            NetworkDestination(name="b.test", address="8.8.8.8", port=443, connections=3, bytes_in=2048, bytes_out=10)
        ],
    )
    assert list(summed(network)) == [
        "network    egress: 3 allowed, 2 refused, 1 failed; 2 KiB in, 10 B out",
        "  REFUSED  a.test:80 (10.0.0.1) (2 times): it is private; allow it with --allow-address 10.0.0.1"
        " on workspace create",
        "  FAILED   8.8.8.8:1: timed out",
        "           b.test:443 (8.8.8.8): 3 connections, 2 KiB in, 10 B out",
    ]
