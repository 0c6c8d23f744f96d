"""sysfs: finds devices by their attributes, since the kernel numbers them in no fixed order."""

from __future__ import annotations

import os


def find_device(directory: str, attribute: str, target: str) -> str | None:
    """The path in /dev of the device below the sysfs `directory` whose `attribute` reads `target`; None without one."""
    for name in sorted(os.listdir(directory)):
        try:
            with open(f"{directory}/{name}/{attribute}", encoding="ascii", errors="replace") as file:
                if file.read().strip() == target:
                    return f"/dev/{name}"
        except OSError:
            continue  # Most have no such attribute.
    return None
