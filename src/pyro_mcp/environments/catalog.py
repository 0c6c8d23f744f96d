"""The catalogue: which environments there are. Adding one means adding an entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyro_mcp.environments.bootstrap import SUITE
from pyro_mcp.errors import NotFound

CATALOG_VERSION = "1.0.0"
BUILDER_VERSION = 1
"""Raise it when the same recipe would give another image."""


@dataclass(frozen=True)
class Recipe:
    """How one environment is made of Debian's archive. `shown` are the packages a user picks it for, `programs` those
    in it that are often missed in another one."""

    name: str
    description: str
    version: str
    shown: tuple[str, ...]
    include: tuple[str, ...]
    programs: tuple[str, ...] = ()
    variant: str = "minbase"
    suite: str = SUITE
    distribution: str = "debian"
    distribution_version: str = "12"

    def inputs(self, machine: str) -> dict[str, Any]:
        """What decides the image, besides the archive's state."""
        return {
            "builder": BUILDER_VERSION,
            "machine": machine,
            "suite": self.suite,
            "variant": self.variant,
            "version": self.version,
            "include": sorted(self.include),
        }


_GIT = ("ca-certificates", "git")
_BUILD = ("cmake", "g++", "gcc", "libc6-dev", "make", "pkg-config", "python3", "python3-pip", "python3-venv")
_PROGRAMS = (
    *("cc", "c++", "cpp", "gcc", "g++", "ar", "ld", "strip", "make", "gmake", "cmake", "ctest", "pkg-config"),
    *("python3", "pip", "pip3"),
)

CATALOG: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="debian:12",
            description="Debian 12 with git, for looking at and trying out repositories",
            version="1.0.0",
            shown=("git",),
            include=_GIT,
            programs=("git",),
        ),
        Recipe(
            name="debian:12-base",
            description="Debian 12 at its smallest: a shell, coreutils and apt",
            version="1.0.0",
            shown=(),
            include=(),
        ),
        Recipe(
            name="debian:12-build",
            description="Debian 12 with git, a C and C++ compiler, make, cmake and Python",
            version="1.0.0",
            shown=("git", "gcc", "make", "cmake", "python3"),
            include=(*_GIT, *_BUILD),
            programs=("git", *_PROGRAMS),
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of environment `name`. Raises `NotFound` that lists the ones there are."""
    recipe = CATALOG.get(name)
    if recipe is None:
        hint = f"Environments: {', '.join(CATALOG)}"
        raise NotFound(f"cannot find environment {name[:80]!r}: it is not in the catalogue", hint=hint)
    return recipe
