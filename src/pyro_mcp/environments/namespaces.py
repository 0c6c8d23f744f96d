"""What builds need of the host's kernel: namespaces, for an ordinary user with a range of subordinate ids.

Proved by making them once, because what forbids them differs between hosts; the reason is looked for afterwards.
"""

from __future__ import annotations

import functools
import os
import pwd
from pathlib import Path

from pyro_mcp.errors import PermissionDenied, PyroError
from pyro_mcp.system.process import PACKAGES, CommandFailed, find_program, require_program, run

PROOF_SECONDS = 20.0
_SWITCHES = {
    "user/max_user_namespaces": "0",
    "kernel/unprivileged_userns_clone": "0",
    "kernel/apparmor_restrict_unprivileged_userns": "1",
}
_SWITCHED_ON = {
    "user/max_user_namespaces": "10000",
    "kernel/unprivileged_userns_clone": "1",
    "kernel/apparmor_restrict_unprivileged_userns": "0",
}


def namespaces() -> list[str]:
    """The words before a command that shall run as the root of its own namespaces."""
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return argv if os.geteuid() == 0 else [*argv, "--user", "--map-root-user", "--map-auto"]


def require_namespaces() -> None:
    """Raises `PermissionDenied` that names what is missing, or `MissingDependency`."""
    require_program("unshare")
    if not _proved():
        raise PermissionDenied("cannot build images as this user: " + obstacle()[0], hint=obstacle()[1])


def obstacle() -> tuple[str, str]:
    """Why this user may not make them, and what helps."""
    if os.geteuid() == 0:
        return "this root may not make mount and process namespaces", "Give the container the capability CAP_SYS_ADMIN"
    if find_program("newuidmap") is None:
        return "newuidmap is not installed", f"Run as root: apt-get install {PACKAGES['newuidmap']}"
    for name, off in _SWITCHES.items():
        if _read(f"/proc/sys/{name}").strip() == off:
            key = name.replace("/", ".")
            return f"{key} is {off}: user namespaces are off", f"Run as root: sysctl {key}={_SWITCHED_ON[name]}"
    user = _user()
    for file in ("/etc/subuid", "/etc/subgid"):
        owners = {line.partition(":")[0] for line in _read(file).splitlines()}
        if not owners & {user, str(os.geteuid())}:
            words = "usermod --add-subuids 100000-165535 --add-subgids 100000-165535"
            return f"{file} has no range of ids for {user}", f"Run as root: {words} {user}"
    return "the host forbids user namespaces", "Build as root, or take a cache that holds everything (PYRO_CACHE_DIR)"


def _proved() -> bool:
    try:
        _make_once()
    except CommandFailed:
        return False
    return True


@functools.cache
def _make_once() -> None:
    """What succeeded once is not asked again; an exception is not remembered."""
    run([*namespaces(), "true"], timeout=PROOF_SECONDS)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def finding() -> tuple[bool, str, str | None]:
    """For the doctor: whether builds can work, what was seen, and what helps."""
    try:
        require_namespaces()
    except PyroError as error:
        return False, error.message.removeprefix("cannot build images as this user: "), error.hint
    if os.geteuid() == 0:
        return True, "root: environments are made without user namespaces", None
    return True, "user namespaces and subordinate ids are there: environments are made without root", None
