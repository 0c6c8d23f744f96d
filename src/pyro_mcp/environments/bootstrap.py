"""Debian's archive becomes a directory: one way to call `mmdebstrap`, as root and as an ordinary user.

It runs in namespaces of its own (mounts, processes, and for an ordinary user a user namespace with the subordinate ids
of /etc/subuid). So its mounts vanish with it, and when pyro dies, even by SIGKILL, everything it started dies too.
Signatures are apt's business: the archive, its keys and its proxy are those of the host's own configuration.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from pyro_mcp.environments.archive import host_proxies, host_sources
from pyro_mcp.environments.namespaces import namespaces, obstacle, require_namespaces
from pyro_mcp.errors import PermissionDenied
from pyro_mcp.system.process import CommandFailed, require_program, run
from pyro_mcp.system.progress import Progress

SUITE = "bookworm"
BOOTSTRAP_SECONDS = 1800.0

_STEPS: tuple[tuple[str, str, float], ...] = (
    ("running apt-get update", "Reading the package lists", 0.05),
    ("downloading packages with apt", "Downloading packages", 0.15),
    ("extracting archives", "Unpacking the base system", 0.35),
    ("installing essential packages", "Installing the base system", 0.45),
    ("installing remaining packages", "Installing packages", 0.70),
    ("running --customize-hook", "Finishing", 0.90),
    ("cleaning package lists", "Cleaning up", 0.95),
)
"""What mmdebstrap says, what a person reads, how far that is: measured on a `debian:12` pull."""


def bootstrap(
    target: Path,
    *,
    variant: str,
    include: Sequence[str],
    suite: str = SUITE,
    progress: Progress,
    options: Sequence[str] = (),
    cancelled: threading.Event | None = None,
) -> None:
    """Fill the new directory `target` with Debian packages.

    `variant` is mmdebstrap's: "extract" unpacks without running anything, "minbase" installs. Raises
    `MissingDependency`, `DiskFull`, `Cancelled`, `PermissionDenied` or `CommandFailed`; removes nothing then.
    """
    require_program("mmdebstrap")
    require_namespaces()
    argv = ["mmdebstrap", "--mode=root", f"--variant={variant}", "--format=directory", *options]
    argv += [f"--include={','.join(include)}"] if include else []
    argv += [f"--aptopt={proxy}" for proxy in host_proxies()]
    sources = host_sources(suite)
    confined([*argv, suite, str(target), *sources], progress=progress, cancelled=cancelled)


def remove_tree(path: Path) -> None:
    """Remove a tree whose files may belong to subordinate ids. It need not exist."""
    with contextlib.suppress(OSError):
        # Enough for what a build has left that never came to those ids, and for a user who has none.
        shutil.rmtree(path)
    if path.is_symlink() or path.exists():
        confined(["rm", "-rf", "--one-file-system", "--", str(path)])


def confined(
    argv: Sequence[str], *, progress: Progress | None = None, cancelled: threading.Event | None = None
) -> None:
    """Run `argv` as the root of its own namespaces. Errors as in `system.process.run`."""

    def on_line(line: str) -> None:
        step = _step_of(line)
        if step is not None and progress is not None:
            progress(*step)

    require_namespaces()
    command = [*namespaces(), require_program(argv[0]), *argv[1:]]
    try:
        run(command, env=_environ(), timeout=BOOTSTRAP_SECONDS, on_line=on_line, cancelled=cancelled)
    except CommandFailed as error:
        raise _explained(argv[0], error) from error


def _environ() -> Mapping[str, str]:
    """A plain environment: locale and PATH set, proxies and certificates of the host kept."""
    from pyro_mcp.settings import host_environ

    kept = re.compile(r"(?i).*(_proxy|_cert_file|_cert_dir)|SSL_CERT_(FILE|DIR)|APT_CONFIG|SOURCE_DATE_EPOCH")
    environ = {name: value for name, value in host_environ().items() if kept.fullmatch(name)}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {**environ, "PATH": path, "LC_ALL": "C.UTF-8", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}


def _step_of(line: str) -> tuple[str, float] | None:
    for marker, message, fraction in _STEPS:
        if marker in line:
            return message, fraction
    return None


def _explained(name: str, error: CommandFailed) -> CommandFailed | PermissionDenied:
    """The same failure with what to do about it."""
    if "unshare failed" in error.output or "newuidmap" in error.output:
        cause, hint = obstacle()
        return PermissionDenied(f"cannot run {name}: {cause}", hint=hint)
    lines = [line for line in error.output.splitlines() if re.match(r"(E:|Err:|dpkg: error)", line)]
    cause = " / ".join(lines[-3:])[-600:] or str(error.message)
    hint = "See that `apt-get update` works on this host, then try again"
    return CommandFailed(f"cannot finish {name}: {cause}", status=error.status, output=error.output, hint=hint)


def archive_versions(root: Path) -> dict[str, str]:
    """Versions of the packages whose archives lie in `root`'s apt cache (bootstrapped with `--skip=cleanup/apt`)."""
    names = (archive.name for archive in (root / "var/cache/apt/archives").glob("*.deb"))
    parts = (unquote(name).split("_") for name in sorted(names))
    return {part[0]: part[1] for part in parts}


def installed_versions(root: Path) -> dict[str, str]:
    """Versions of the packages installed in `root`, from its dpkg database."""
    found: dict[str, str] = {}
    for block in (root / "var/lib/dpkg/status").read_text("utf-8", "replace").split("\n\n"):
        name = re.search(r"^Package: (\S+)$", block, re.MULTILINE)
        version = re.search(r"^Version: (\S+)$", block, re.MULTILINE)
        if name and version and "\nStatus: install ok installed" in f"\n{block}":
            found[name[1]] = version[1]
    return found
