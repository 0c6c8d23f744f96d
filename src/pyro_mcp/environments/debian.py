"""A Debian recipe becomes a read-only image."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from pyro_mcp.environments.archive import public_source
from pyro_mcp.environments.bootstrap import bootstrap, installed_versions
from pyro_mcp.environments.catalog import Recipe
from pyro_mcp.environments.image import make_erofs
from pyro_mcp.system.atomic import write_file
from pyro_mcp.system.progress import Progress, scaled

_HOST_TRACES = ("^etc/resolv.conf$", "^etc/hostname$", "^etc/hosts$", "^etc/apt/apt.conf.d/99mmdebstrap$")
_VOLATILE = ("^dev/.+", "^proc/.+", "^run/.+", "^sys/.+", "^tmp/.+", "^var/cache/apt/.+[.]bin$")
_SOURCES = "etc/apt/sources.list"


def build_debian(
    recipe: Recipe, work: Path, image: Path, progress: Progress, cancelled: threading.Event | None
) -> dict[str, Any]:
    """Bootstrap `recipe` below the empty directory `work` and pack it into `image`; facts for the manifest.

    Nothing of the host goes in: not its resolver, host name or proxy, nor a password in its mirror's address.
    Raises the errors of `bootstrap`.
    """
    root = work / "root"
    progress(f"Starting to build {recipe.name}", 0.0)
    bootstrap(
        root,
        variant=recipe.variant,
        include=recipe.include,
        suite=recipe.suite,
        progress=scaled(progress, 0.0, 0.9),
        cancelled=cancelled,
    )
    sources = _publish_sources(root)
    packages = installed_versions(root)
    progress("Packing the image", 0.9)
    make_erofs(root, image, compress=True, exclude=[*_HOST_TRACES, *_VOLATILE], cancelled=cancelled)
    return {"packages": packages, "source": sources}


def _publish_sources(root: Path) -> list[str]:
    path = root / _SOURCES
    lines = [public_source(line) for line in path.read_text("utf-8").splitlines() if line.startswith("deb ")]
    write_file(path, "".join(f"{line}\n" for line in lines).encode(), mode=0o644)
    return lines
