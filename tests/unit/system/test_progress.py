"""A part's 0..1 becomes its share of the whole."""

from __future__ import annotations

from pyro_mcp.system.progress import scaled, silent


def test_scaling() -> None:
    said: list[tuple[str, float | None]] = []
    part = scaled(lambda message, fraction: said.append((message, fraction)), 0.5, 1.0)
    for fraction in (0.0, 0.5, 1.0, 7.0, -1.0, None):
        part("x", fraction)
    assert [fraction for _, fraction in said] == [0.5, 0.75, 1.0, 1.0, 0.5, None]
    silent("x", 0.1)
