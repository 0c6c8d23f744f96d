"""Pruning takes what nobody uses, and only that."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pyro_mcp.environments import catalog
from pyro_mcp.environments import store as store_module
from pyro_mcp.environments.catalog import CATALOG
from pyro_mcp.environments.store import EnvironmentStore
from pyro_mcp.errors import NotFound
from pyro_mcp.settings import Settings
from pyro_mcp.system.locks import locked

from .conftest import FakeBuilder


@pytest.fixture
def owner(tmp_path: Path) -> Path:
    path = tmp_path / "machines" / "vm-1"
    path.mkdir(parents=True)
    return path


def test_an_empty_cache(store: EnvironmentStore) -> None:
    assert store.prune().removed == []


def test_unused_goes_and_used_stays(store: EnvironmentStore, builder: FakeBuilder, owner: Path) -> None:
    used, unused = store.acquire("debian:12", owner), store.ensure("debian:12-base")
    pruned = store.prune(everything=True)
    assert pruned.kept == ["debian:12"]
    assert pruned.removed == ["debian:12-base"]
    assert pruned.freed_bytes > 0
    assert used.path.exists()
    assert not unused.path.parent.exists()
    assert [found.name for found in store.list() if found.installed] == ["debian:12"]


def test_what_the_catalogue_needs_stays_unless_everything_is_to_go(
    store: EnvironmentStore, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = store.ensure("debian:12")
    (store._base / "names" / "debian:11").symlink_to(f"../{old.digest}")
    store.ensure("debian:12-base")
    recipe = CATALOG["debian:12"]
    monkeypatch.setattr(catalog, "CATALOG", {**CATALOG, "debian:12": replace(recipe, version="2.0.0")})
    monkeypatch.setattr(store_module, "CATALOG", catalog.CATALOG)
    pruned = store.prune()
    assert (pruned.removed, pruned.kept, pruned.unused) == (["debian:11"], [], ["debian:12-base"])
    assert not old.path.exists()
    assert [found.name for found in store.list() if found.installed] == ["debian:12-base"]
    assert store.prune(everything=True).removed == ["debian:12-base"]


@pytest.mark.parametrize("everything", [False, True])
def test_a_dry_run_reports_what_the_real_one_does_and_changes_nothing(
    store: EnvironmentStore, builder: FakeBuilder, settings: Settings, owner: Path, everything: bool
) -> None:
    used, unused = store.acquire("debian:12", owner), store.ensure("debian:12-base")
    gone = owner.with_name("gone")
    gone.mkdir()
    store.lease(unused.digest, gone)
    gone.rmdir()
    (store._base / ".build-debian_12-build" / "root").mkdir(parents=True)
    (store._base / ".lock-debian_12-build").touch()
    for kind, digest in (("one", used.digest), ("two", unused.digest)):
        directory = settings.cache_dir / "templates" / kind
        directory.mkdir(parents=True)
        (directory / "manifest.json").write_text(json.dumps({"environment": digest, "runtime": None}))
    before = sorted(settings.cache_dir.rglob("*"))
    shown = store.prune(everything=everything, dry_run=True)
    assert sorted(settings.cache_dir.rglob("*")) == before
    assert shown.dry_run
    assert shown.removed == (["debian:12-base"] if everything else [])
    assert str(settings.cache_dir / "templates" / "one") not in shown.deleted
    assert (str(settings.cache_dir / "templates" / "two") in shown.deleted) is everything
    done = store.prune(everything=everything)
    assert replace(shown, dry_run=False) == done
    assert [path for path in map(Path, done.deleted) if path.exists()] == []


def test_a_lease_ends_with_its_owner(store: EnvironmentStore, builder: FakeBuilder, owner: Path) -> None:
    image = store.acquire("debian:12", owner)
    shutil.rmtree(owner)
    assert store.prune(everything=True).removed == ["debian:12"]
    base = image.path.parent.parent
    assert sorted(entry.name for entry in base.iterdir()) == [".lock", ".lock-debian_12", "names"]
    assert list((base / "names").iterdir()) == []


def test_a_lease_can_be_given_back(store: EnvironmentStore, builder: FakeBuilder, owner: Path) -> None:
    image = store.acquire("debian:12", owner)
    store.lease(image.digest, owner)
    store.release(image.digest, owner)
    store.release(image.digest, owner)
    assert store.prune(everything=True).removed == ["debian:12"]
    with pytest.raises(NotFound, match="removed meanwhile"):
        store.lease(image.digest, owner)


def test_an_image_about_to_be_leased_stays(
    store: EnvironmentStore, builder: FakeBuilder, owner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = store.lease

    def prune_then_lease(digest: str, owner_dir: Path) -> None:
        assert store.prune(everything=True).removed == []
        lease(digest, owner_dir)

    monkeypatch.setattr(store, "lease", prune_then_lease)
    assert store.acquire("debian:12", owner).path.exists()


def test_leftovers_go_and_a_build_under_way_stays(
    store: EnvironmentStore, builder: FakeBuilder, settings: Settings
) -> None:
    base = settings.cache_dir / "environments"
    for name in ("debian_12", "debian_12-base"):
        (base / f".build-{name}" / "root").mkdir(parents=True)
    with locked(base / ".lock-debian_12"):
        pruned = store.prune()
    assert pruned.deleted == [str(base / ".build-debian_12-base")]
    assert (base / ".build-debian_12").exists()


def test_templates_of_a_removed_image_go(
    store: EnvironmentStore, builder: FakeBuilder, settings: Settings, owner: Path
) -> None:
    image = store.acquire("debian:12", owner)
    for kind, digest in (("gone", "0" * 64), ("other-runtime", image.digest)):
        directory = settings.cache_dir / "templates" / kind
        directory.mkdir(parents=True)
        (directory / "manifest.json").write_text(json.dumps({"environment": digest, "runtime": "none"}))
        (directory / "ram").write_bytes(b"x" * 8192)
    pruned = store.prune()
    assert pruned.freed_bytes >= 16384
    assert list((settings.cache_dir / "templates").iterdir()) == []


def test_pulls_and_prunes_at_once(settings: Settings, builder: FakeBuilder, tmp_path: Path) -> None:
    """Whoever acquires has an image that stays, however often others prune."""
    failures: list[object] = []
    done = threading.Event()

    def use(number: int) -> None:
        store = EnvironmentStore(settings)
        for turn in range(8):
            owner = tmp_path / f"owner-{number}-{turn}"
            owner.mkdir()
            image = store.acquire("debian:12", owner)
            if image.path.read_bytes() != b"image of debian:12":
                failures.append(image)
            owner.rmdir()

    def prune() -> None:
        while not done.is_set():
            EnvironmentStore(settings).prune(everything=True)
            done.wait(0.02)

    pruner = threading.Thread(target=prune)
    pruner.start()
    users = [threading.Thread(target=use, args=(number,)) for number in range(3)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    done.set()
    pruner.join()
    assert failures == []


def test_clones_go_unless_somebody_reads_them(store: EnvironmentStore, tmp_path: Path) -> None:
    used, unused = tmp_path / "cache/projects/a", tmp_path / "cache/projects/b"
    for home in (used, unused):
        (home / "repo/.git").mkdir(parents=True)
        (home / "repo/.git/HEAD").write_text("x")
        (home / "lock").touch()
    (unused / ".new-0").mkdir()
    with locked(used / "lock"):
        assert len(store.prune().deleted) == 2
    assert [path.name for path in unused.iterdir()] == ["lock"]
    assert (used / "repo/.git/HEAD").exists()
