"""A cache of this test's own, and a builder that needs no network."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.environments import store as store_module
from pyro_mcp.environments.catalog import Recipe
from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.settings import Settings
from pyro_mcp.system.progress import Progress


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return dataclasses.replace(Settings.load(), state_dir=tmp_path / "state", cache_dir=tmp_path / "cache")


@pytest.fixture
def store(settings: Settings) -> EnvironmentStore:
    return EnvironmentStore(settings)


class FakeBuilder:
    """Stands in for mmdebstrap: counts builds, may be slow, may fail half-way."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.seconds = 0.0
        self.error: Exception | None = None
        self.content = b"image of "

    def __call__(
        self, recipe: Recipe, work: Path, image: Path, progress: Progress, cancelled: threading.Event | None
    ) -> dict[str, Any]:
        progress("Building", 0.5)
        (work / "root").mkdir()
        (work / "root" / "half").write_text("done")
        self.built.append(recipe.name)
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        image.write_bytes(self.content + recipe.name.encode())
        return {"packages": {"git": "1:2.39"}, "source": ["deb http://mirror.test/debian bookworm main"]}


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    fake = FakeBuilder()
    monkeypatch.setattr(store_module, "build_debian", fake)
    return fake
