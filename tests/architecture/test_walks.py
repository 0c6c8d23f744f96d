"""The walks in ARCHITECTURE lead through files that are there, each once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "pyro_mcp"
CHAPTER = (ROOT / "ARCHITECTURE.md").read_text().partition("## Four walks\n")[2].partition("\n## ")[0]
COMMON, *REST = re.split(r"^### ", CHAPTER, flags=re.MULTILINE)
WALKS = {walk.partition("\n")[0]: walk for walk in REST}


def files(text: str) -> list[str]:
    return re.findall(r"`([\w/]+\.py)`", text)


def test_there_are_four() -> None:
    assert list(WALKS) == ["exec", "create --seed-path", "patch apply", "service start"]


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_names_each_file_once_and_all_are_there(name: str) -> None:
    named = files(COMMON) + files(WALKS[name])
    assert [file for file in named if not (SOURCE / file).is_file()] == []
    assert sorted(set(named)) == sorted(named)


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_goes_from_the_declaration_down_into_the_guest(name: str) -> None:
    rooms = [file.partition("/")[0] for file in files(WALKS[name])]
    assert rooms[0] == "api"
    assert "engine" in rooms
    assert "guest" in rooms
