"""Leases: what keeps an image from being pruned.

A lease is a symbolic link in `<digest>.leases/` to the directory of whatever uses the image, and lives while that
directory exists. So nobody has to return it: a machine that is gone, however it went, no longer holds its image.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def leases_of(image: Path) -> Path:
    """Where the leases of the image directory `image` lie."""
    return image.with_name(f"{image.name}.leases")


def take(image: Path, owner: Path) -> None:
    """Lease `image` to the directory `owner`. Idempotent. The caller holds the store's lock. Raises `OSError`."""
    leases = leases_of(image)
    leases.mkdir(mode=0o700, exist_ok=True)
    link = leases / _name(owner)
    if not link.is_symlink():
        link.symlink_to(os.path.abspath(owner))


def release(image: Path, owner: Path) -> None:
    """Give the lease of `owner` back, if it holds one."""
    (leases_of(image) / _name(owner)).unlink(missing_ok=True)


def held(image: Path) -> bool:
    """Whether somebody who is there holds a lease on `image`."""
    try:
        return any(link.exists() for link in leases_of(image).iterdir())
    except FileNotFoundError:
        return False


def sweep(image: Path) -> bool:
    """Drop the leases whose owner is gone; whether any is left. The caller holds the store's lock."""
    leases = leases_of(image)
    try:
        links = list(os.scandir(leases))
    except FileNotFoundError:
        return False
    alive = False
    for link in links:
        if os.path.exists(link.path):
            alive = True
        else:
            Path(link.path).unlink(missing_ok=True)
    if not alive:
        leases.rmdir()
    return alive


def _name(owner: Path) -> str:
    return hashlib.sha256(os.path.abspath(owner).encode()).hexdigest()[:32]
