"""The host's own apt configuration: which mirror and which proxy the archive is reached through."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from pyro_mcp.system.process import CommandFailed, find_program, run

_SCHEMES = ("http", "https", "file", "copy", "mirror")
_PROXIES = ("Acquire::http::Proxy", "Acquire::https::Proxy")


def host_sources(suite: str) -> list[str]:
    """The host's sources of `suite`, its updates and its security fixes, as lines of sources.list.

    Empty when the host has none (another release, another distribution): then the archive's own address serves.
    Lines may hold credentials; see `public_source`.
    """
    if find_program("apt-get") is None:
        return []
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    try:
        listed = run(argv, timeout=30.0).stdout
    except CommandFailed:
        return []
    requested = {suite, f"{suite}-updates", f"{suite}-security"}
    fields = (line.split() for line in dict.fromkeys(listed.splitlines()))
    found = [row for row in fields if len(row) == 3 and row[1] in requested and row[2] == "main"]
    usable = [row for row in found if urlsplit(row[0]).scheme in _SCHEMES]
    # A host with the updates but not the release itself cannot serve as the mirror.
    return [f"deb {' '.join(row)}" for row in usable] if any(row[1] == suite for row in usable) else []


def host_proxies() -> list[str]:
    """The host's apt proxies, as `mmdebstrap --aptopt` values."""
    if find_program("apt-config") is None:
        return []
    try:
        dump = run(["apt-config", "dump", "--no-empty", "--format", "%f %v%n", *_PROXIES], timeout=30.0).stdout
    except CommandFailed:
        return []
    pairs = (line.partition(" ") for line in dump.splitlines())
    return [f'{name} "{value}"' for name, _, value in pairs if name in _PROXIES and re.fullmatch(r"[^\s\"]+", value)]


def public_source(line: str) -> str:
    """The line without the user name and password that its address may hold."""
    words = line.split()
    for index, word in enumerate(words):
        if "://" in word:
            parts = urlsplit(word)
            host = parts.netloc.rpartition("@")[2]
            words[index] = urlunsplit(parts._replace(netloc=host))
    return " ".join(words)
