"""Installing: by content, all or nothing, shared between callers, never trusted when damaged."""

from __future__ import annotations

import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyro_mcp.environments import catalog
from pyro_mcp.environments import store as store_module
from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.errors import Cancelled, DiskFull, NotFound, PermissionDenied, PyroError
from pyro_mcp.model.environment import Environment
from pyro_mcp.settings import Settings
from pyro_mcp.system.locks import locked

from .conftest import FakeBuilder

CONTRACT = """
name version description default_packages distribution distribution_version platform installed cache_dir install_dir
catalog_version
"""


def leftovers(settings: Settings) -> list[str]:
    base = settings.cache_dir / "environments"
    return [entry.name for entry in base.iterdir() if entry.name.startswith(".build")] if base.exists() else []


def test_the_catalogue_holds_the_promised_environments(store: EnvironmentStore) -> None:
    found = {environment.name: environment for environment in store.list()}
    assert list(found) == ["debian:12", "debian:12-base", "debian:12-build"]
    assert found["debian:12"].default_packages == ["git"]
    assert found["debian:12-base"].default_packages == []
    assert found["debian:12-build"].default_packages == ["git", "gcc", "make", "cmake", "python3"]
    for environment in found.values():
        assert not environment.installed
        assert environment.install_dir is None
        for field in CONTRACT.split():
            assert field in environment


def test_listing_and_inspecting_write_nothing(store: EnvironmentStore, settings: Settings) -> None:
    store.list()
    store.inspect("debian:12")
    assert not settings.cache_dir.exists()


@pytest.mark.parametrize("name", ["debian:13", "", "../etc", "debian:12\0", "x" * 5000, "$(id)"])
def test_an_unknown_name_lists_the_known_ones(store: EnvironmentStore, name: str) -> None:
    for act in (store.inspect, store.pull, store.ensure):
        with pytest.raises(NotFound) as caught:
            act(name)
        assert "debian:12-build" in str(caught.value.hint)
        assert len(str(caught.value)) < 400


def test_pull_installs_once(store: EnvironmentStore, builder: FakeBuilder, settings: Settings) -> None:
    steps: list[tuple[str, float | None]] = []
    first = store.ensure("debian:12", lambda message, fraction: steps.append((message, fraction)))
    second = store.ensure("debian:12")
    assert first == second
    assert builder.built == ["debian:12"]
    assert first.path.read_bytes() == b"image of debian:12"
    environment = store.inspect("debian:12")
    assert isinstance(environment, Environment)
    assert environment.installed
    assert environment.digest == first.digest
    assert environment["install_dir"] == str(first.path.parent)
    assert environment.packages == {"git": "1:2.39"}
    fractions = [fraction for _, fraction in steps if fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert not leftovers(settings)


def test_two_pulls_at_once_share_the_work(settings: Settings, builder: FakeBuilder) -> None:
    builder.seconds = 0.3
    said: list[str] = []

    def pull(_: int) -> str:
        return EnvironmentStore(settings).ensure("debian:12", lambda message, _: said.append(message)).digest

    with ThreadPoolExecutor(6) as pool:
        digests = set(pool.map(pull, range(6)))
    assert len(digests) == 1
    assert builder.built == ["debian:12"]
    assert any("Waiting for another process" in message for message in said)


def test_a_waiting_pull_can_be_cancelled(store: EnvironmentStore, builder: FakeBuilder, settings: Settings) -> None:
    (settings.cache_dir / "environments").mkdir(parents=True)
    cancelled = threading.Event()
    cancelled.set()
    with (
        locked(settings.cache_dir / "environments" / ".lock-debian_12"),
        pytest.raises(Cancelled),
    ):
        store.ensure("debian:12", cancelled=cancelled)
    assert builder.built == []


@pytest.mark.parametrize("error", [Cancelled("cannot go on: cancelled"), OSError(28, "No space left on device")])
def test_a_failed_build_leaves_nothing(
    store: EnvironmentStore, builder: FakeBuilder, settings: Settings, error: Exception
) -> None:
    builder.error = error
    with pytest.raises(PyroError) as caught:
        store.ensure("debian:12")
    assert type(caught.value) is (DiskFull if isinstance(error, OSError) else Cancelled)
    assert not store.inspect("debian:12").installed
    assert not leftovers(settings)
    builder.error = None
    assert store.pull("debian:12").installed


def test_what_a_killed_builder_left_is_no_obstacle(
    store: EnvironmentStore, builder: FakeBuilder, settings: Settings
) -> None:
    left = settings.cache_dir / "environments" / ".build-debian_12" / "product"
    left.mkdir(parents=True)
    (left / "image.erofs").write_bytes(b"half")
    assert not store.inspect("debian:12").installed
    assert store.pull("debian:12").installed
    assert not leftovers(settings)


def flip(path: Path) -> None:
    """Change one byte and put size and modification time back, as a bad disk or a sly program would."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("damage", [flip, lambda path: os.truncate(path, 3), Path.unlink])
def test_a_damaged_image_is_built_again(store: EnvironmentStore, builder: FakeBuilder, damage: object) -> None:
    image = store.ensure("debian:12")
    damage(image.path)  # type: ignore[operator]
    assert not store.inspect("debian:12").installed
    with pytest.raises(NotFound):
        store.leased(image.digest)
    again = store.ensure("debian:12")
    assert again.path.read_bytes() == b"image of debian:12"
    assert builder.built == ["debian:12", "debian:12"]
    assert store.leased(again.digest) == again


def test_a_copied_cache_is_accepted_after_its_digest_is_checked(store: EnvironmentStore, builder: FakeBuilder) -> None:
    image = store.ensure("debian:12")
    os.utime(image.path, ns=(0, 0))
    assert store.ensure("debian:12") == image
    assert builder.built == ["debian:12"]


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"files": 1, "facts": 2}', '{"files": {"a": 1}, "facts": {}}']
)
def test_a_broken_manifest_means_not_installed(store: EnvironmentStore, builder: FakeBuilder, text: str) -> None:
    image = store.ensure("debian:12")
    (image.path.parent / "manifest.json").write_text(text)
    assert not store.inspect("debian:12").installed
    assert store.pull("debian:12").installed


def test_a_newer_recipe_is_a_new_image(
    store: EnvironmentStore, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = store.ensure("debian:12")
    newer = dataclasses.replace(catalog.CATALOG["debian:12"], version="1.1.0")
    monkeypatch.setattr(catalog, "CATALOG", {"debian:12": newer})
    monkeypatch.setattr(store_module, "CATALOG", {"debian:12": newer})
    assert not store.inspect("debian:12").installed
    builder.content = b"newer "
    new = store.ensure("debian:12")
    assert new.digest != old.digest
    assert store.leased(old.digest).path.exists()


def test_a_cache_that_may_not_be_written(store: EnvironmentStore, settings: Settings) -> None:
    settings.cache_dir.parent.mkdir(exist_ok=True)
    settings.cache_dir.write_text("a file where the directory belongs")
    with pytest.raises(PyroError, match="cannot install environment debian:12"):
        store.ensure("debian:12")


def test_a_full_disk_says_what_to_do(
    store: EnvironmentStore, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.error = PermissionError(13, "Permission denied", "/somewhere")
    with pytest.raises(PermissionDenied, match="Permission denied"):
        store.ensure("debian:12")
    builder.error = OSError(122, "Disk quota exceeded")
    with pytest.raises(DiskFull) as caught:
        store.ensure("debian:12")
    assert "prune" in str(caught.value.hint)
