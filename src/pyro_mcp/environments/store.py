"""The environments on this host: list, pull, lease, prune.

    <cache>/environments/<digest>/          image.erofs · manifest.json, read-only once published
    <cache>/environments/<digest>.leases/   see `leases`
    <cache>/environments/names/<name>       link to the image that the name means now
    <cache>/environments/.build-<name>/     a build under way, or what a killed one left

Locks: `.lock-<name>` is held while `<name>` is built, so two pulls share the work and leftovers can be told from work;
`.lock` is held while leases and names change, so a prune never takes what somebody is about to use.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pyro_mcp.environments import cache, leases
from pyro_mcp.environments.bootstrap import remove_tree
from pyro_mcp.environments.catalog import CATALOG, CATALOG_VERSION, Recipe, find_recipe
from pyro_mcp.environments.debian import build_debian
from pyro_mcp.environments.prune import prune
from pyro_mcp.errors import NotFound
from pyro_mcp.model.environment import Environment, PruneResult
from pyro_mcp.settings import Settings
from pyro_mcp.system.atomic import disk_errors, make_directory, publish_directory, replace_link, unless_read_only
from pyro_mcp.system.locks import locked
from pyro_mcp.system.progress import Progress, silent

IMAGE = "image.erofs"
READ_ONLY = "Have somebody who may write the cache make it there, or name a cache of your own with PYRO_CACHE_DIR"


@dataclass(frozen=True)
class EnvironmentImage:
    """An installed environment's image, checked: a read-only erofs file."""

    name: str
    digest: str
    path: Path


class EnvironmentStore:
    """The environments below `settings.cache_dir`. Safe between threads and processes; keeps no state of its own.

    Every method may raise `DiskFull`, `PermissionDenied` or another `PyroError` for what the disk refuses.
    """

    catalog_version = CATALOG_VERSION

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._base = settings.cache_dir / "environments"

    def list(self) -> list[Environment]:
        """The whole catalogue, installed or not."""
        with disk_errors("list environments"):
            return [self._describe(recipe) for recipe in CATALOG.values()]

    def inspect(self, name: str) -> Environment:
        """One environment. Raises `NotFound`."""
        with disk_errors(f"inspect environment {name[:80]}"):
            return self._describe(find_recipe(name))

    def pull(self, name: str, progress: Progress = silent, *, cancelled: threading.Event | None = None) -> Environment:
        """Install `name` if it is not, or is damaged or made by an older recipe. Raises `NotFound`, `Cancelled`."""
        self.ensure(name, progress, cancelled=cancelled)
        return self.inspect(name)

    def ensure(
        self, name: str, progress: Progress = silent, *, cancelled: threading.Event | None = None
    ) -> EnvironmentImage:
        """The image of `name`, built when absent. Two callers share one build; a killed one leaves no trace.

        Lease it before use, or use `acquire`. Raises `NotFound`, `MissingDependency`, `Cancelled`.
        """
        recipe = find_recipe(name)
        image = self.find(name)
        if image is not None:
            return image
        with disk_errors(f"install environment {name}", refused=READ_ONLY), self._name_lock(name, progress, cancelled):
            return self._image(recipe, self._installed(recipe) or self._build(recipe, progress, cancelled))

    def find(self, name: str) -> EnvironmentImage | None:
        """The image of `name` if it is installed and whole; None otherwise. Raises `NotFound` for no such name."""
        recipe = find_recipe(name)
        with disk_errors(f"open environment {name}"):
            found = self._installed(recipe)
            return None if found is None else self._image(recipe, found)

    def lease(self, digest: str, owner_dir: Path) -> None:
        """Keep the image `digest` from being pruned while the directory `owner_dir` exists. Raises `NotFound`.

        In a cache that may not be written nothing is pruned either, and no lease is needed."""
        with disk_errors("lease an environment"), unless_read_only():
            make_directory(self._base)
            with locked(self._base / ".lock"):
                if not (self._base / digest / IMAGE).is_file():
                    raise NotFound(
                        f"cannot lease environment {digest[:12]}: it was removed meanwhile", hint="Try again"
                    )
                leases.take(self._base / digest, owner_dir)

    def leased(self, digest: str) -> EnvironmentImage:
        """The image `digest`, which the caller holds a lease on. Raises `NotFound` when it is gone or damaged."""
        with disk_errors("open an environment"):
            entry = cache.open_entry(self._base / digest)
        if entry is None:
            hint = "Create the machine again; its disk fits only the image it was made on"
            raise NotFound(f"cannot open environment {digest[:12]}: its image is gone or damaged", hint=hint)
        return EnvironmentImage(str(entry.fields["name"]), digest, entry.path / IMAGE)

    def release(self, digest: str, owner_dir: Path) -> None:
        """Give a lease back before its owner goes. Harmless when there is none."""
        with disk_errors("release an environment"), unless_read_only():
            leases.release(self._base / digest, owner_dir)

    def acquire(
        self, name: str, owner_dir: Path, progress: Progress = silent, *, cancelled: threading.Event | None = None
    ) -> EnvironmentImage:
        """`ensure` and `lease` in one, also while somebody else prunes."""
        recipe = find_recipe(name)
        with disk_errors(f"install environment {name}", refused=READ_ONLY), self._name_lock(name, progress, cancelled):
            # Prune leaves alone what is named by a locked name, so nothing can go between these two.
            found = self._installed(recipe) or self._build(recipe, progress, cancelled)
            image = self._image(recipe, found)
            self.lease(image.digest, owner_dir)
            return image

    def prune(self, *, everything: bool = False, dry_run: bool = False) -> PruneResult:
        """Remove what is outdated, `everything` that no machine uses if asked to, and the leftovers of dead builds."""
        hint = "Its owner may prune it; name a cache of your own with PYRO_CACHE_DIR"
        with disk_errors("prune environments", refused=hint):
            return prune(self._settings, lambda name: not everything and self._current(name), dry_run=dry_run)

    @contextlib.contextmanager
    def _name_lock(self, name: str, progress: Progress, cancelled: threading.Event | None) -> Iterator[None]:
        def waiting() -> None:
            progress(f"Waiting for another process that installs {name}", None)

        make_directory(self._base / "names")
        with locked(self._base / f".lock-{cache.file_name(name)}", on_wait=waiting, cancelled=cancelled):
            yield

    def _installed(self, recipe: Recipe) -> cache.CacheEntry | None:
        """The entry that the name means, if it is whole and today's recipe made it."""
        entry = cache.open_entry(self._base / "names" / recipe.name)
        return entry if entry is not None and entry.fields.get("recipe") == _inputs_digest(recipe) else None

    def _current(self, name: str) -> bool:
        recipe = CATALOG.get(name)
        return recipe is not None and self._installed(recipe) is not None

    def _image(self, recipe: Recipe, entry: cache.CacheEntry) -> EnvironmentImage:
        digest = str(entry.fields["digest"])
        return EnvironmentImage(recipe.name, digest, self._base / digest / IMAGE)

    def _build(self, recipe: Recipe, progress: Progress, cancelled: threading.Event | None) -> cache.CacheEntry:
        work = self._base / f".build-{cache.file_name(recipe.name)}"
        remove_tree(work)
        try:
            product = work / "product"
            product.mkdir(parents=True)
            fields = build_debian(recipe, work, product / IMAGE, progress, cancelled)
            progress("Checking and publishing the image", 0.95)
            fields["digest"] = cache.digest_file(product / IMAGE)
            fields["size_bytes"] = os.stat(product / IMAGE).st_size
            fields |= {"name": recipe.name, "recipe": _inputs_digest(recipe), "installed_at": _now()}
            cache.seal(product, fields, {IMAGE: fields["digest"]})
            self._publish(recipe, product, str(fields["digest"]))
        finally:
            remove_tree(work)
        progress(f"Installed {recipe.name}", 1.0)
        return cache.CacheEntry(self._base / fields["digest"], fields)

    def _publish(self, recipe: Recipe, product: Path, digest: str) -> None:
        with locked(self._base / ".lock"):
            publish_directory(product, self._base / digest)
            replace_link(self._base / "names" / recipe.name, f"../{digest}")

    def _describe(self, recipe: Recipe) -> Environment:
        entry = self._installed(recipe)
        fields = entry.fields if entry else {}
        image = None if entry is None else self._image(recipe, entry).path
        return Environment(
            name=recipe.name,
            version=recipe.version,
            description=recipe.description,
            default_packages=[*recipe.shown],
            distribution=recipe.distribution,
            distribution_version=recipe.distribution_version,
            platform=f"linux-{platform.machine()}",
            installed=entry is not None,
            cache_dir=str(self._settings.cache_dir),
            install_dir=str(image.parent) if image else None,
            catalog_version=CATALOG_VERSION,
            digest=fields.get("digest"),
            size_bytes=fields.get("size_bytes"),
            installed_at=fields.get("installed_at"),
            source=fields.get("source", []),
            packages=fields.get("packages", {}),
        )


def _inputs_digest(recipe: Recipe) -> str:
    return cache.digest_json(recipe.inputs(platform.machine()))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
