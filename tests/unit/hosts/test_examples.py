"""The configuration files among the examples are what `pyro host print-config` shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyro_mcp.surfaces.cli.main import main

CONFIGS = Path(__file__).resolve().parents[3] / "examples" / "mcp"
SHOWN_BY = {"claude-desktop.json": "claude-desktop", "cursor.json": "cursor", "generic.json": "claude-desktop"}
"""Most other hosts take what Claude Desktop takes."""


def test_each_file_is_compared() -> None:
    assert {path.name for path in CONFIGS.iterdir()} == set(SHOWN_BY)


@pytest.mark.parametrize("name", SHOWN_BY)
def test_a_file_is_what_is_printed(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["host", "print-config", SHOWN_BY[name]]) == 0
    printed = json.loads(capfd.readouterr().out)
    # Here the launcher is one of this checkout, in the file any.
    assert printed["mcpServers"]["pyro"]["command"].endswith("pyro")
    printed["mcpServers"]["pyro"]["command"] = "pyro"
    assert json.loads((CONFIGS / name).read_text()) == printed
