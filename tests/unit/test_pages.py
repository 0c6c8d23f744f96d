"""Pages that list what the code has list all of it."""

from __future__ import annotations

import re
from pathlib import Path

from pyro_mcp.errors import PyroError
from pyro_mcp.settings import Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_troubleshooting_has_a_section_for_every_error_code() -> None:
    headings = re.findall(r"^## (\w+)$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert set(headings) == {kind.code for kind in (PyroError, *PyroError.__subclasses__())}


def test_every_setting_is_on_the_page_of_requirements() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "host-requirements.md").read_text(), re.MULTILINE)
    assert rows == list(Settings.load().values())
