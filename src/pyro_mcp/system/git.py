"""The one door to this host's git, which a repository can make run anything.

A guest may have written a repository of this host: its configuration, hooks and attributes name programs, and so may
the index and the objects hold anything. So git never works in a repository that pyro has not made itself: it is told
its git directory, one of ours, and the work tree apart; it reads no configuration but that, and the user's own where
the caller says so; it runs no hook, filter, pager, file system monitor or submodule, asks nobody for a password, and
ends in time.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyro_mcp.errors import InvalidArgument

PROTOCOLS = ("https", "ssh", "git", "file")
_KEPT = ("HOME", "PATH", "XDG_CONFIG_HOME", "TMPDIR")
_KEPT_TO_FETCH = (
    *("SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "http_proxy", "https_proxy", "HTTPS_PROXY"),
    *("all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
)
_FORCED = {
    "advice.detachedHead": "false",
    "core.attributesFile": "/dev/null",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.pager": "cat",
    "core.untrackedCache": "false",
    "credential.interactive": "false",
    "fetch.fsckObjects": "true",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "protocol.ext.allow": "never",
    "submodule.recurse": "false",
}
_CREDENTIALS = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*://)([^/\s'\"<>]*)@")
_URL = re.compile(rf"({'|'.join(PROTOCOLS)})://\S+|[A-Za-z0-9._-]+@[A-Za-z0-9._-]+:\S+|/\S.*")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@-]{0,254}")
LIST_SECONDS = 60.0


def environment(environ: Mapping[str, str], *, fetches: bool = False, users: bool = True) -> dict[str, str]:
    """The whole environment of a git of ours. `users`: it reads the user's own configuration; `fetches`: it gets what
    leads to other hosts, such as proxies."""
    kept = {name: environ[name] for name in (*_KEPT, *(_KEPT_TO_FETCH if fetches else ())) if name in environ}
    config = list(_FORCED.items())
    forced = {f"GIT_CONFIG_KEY_{at}": name for at, (name, _) in enumerate(config)}
    forced |= {f"GIT_CONFIG_VALUE_{at}": value for at, (_, value) in enumerate(config)}
    ours = {} if users else {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1"}
    return {
        **kept,
        **forced,
        **ours,
        "GIT_CONFIG_COUNT": str(len(config)),
        "GIT_ALLOW_PROTOCOL": ":".join(PROTOCOLS),
        "GIT_ASKPASS": "",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


def ask(
    words: Sequence[str], *, git_dir: Path, env: Mapping[str, str], work_tree: Path | None = None, limit: int = 1 << 20
) -> bytes:
    """What `git WORDS` says, at most `limit` bytes, in at most a minute. `git_dir` is one that we have made.

    Raises `MissingDependency`, `CommandFailed`, `TimedOut`, `DiskFull` or `OSError`.
    """
    from pyro_mcp.system.process import run_into  # here: who only looks for a checkout must start fast

    place = work_tree or git_dir
    return run_into(_argv(words, git_dir, work_tree), limit=limit, timeout=LIST_SECONDS, cwd=place, env=env)


def work(
    words: Sequence[str],
    *,
    git_dir: Path,
    env: Mapping[str, str],
    timeout: float,
    work_tree: Path | None = None,
    input: bytes = b"",
    cancelled: threading.Event | None = None,
) -> None:
    """Run `git WORDS`, which may take long, with `input`. Raises what `ask` raises, and `Cancelled`."""
    from pyro_mcp.system.process import run

    run(
        _argv(words, git_dir, work_tree),
        input=input,
        timeout=timeout,
        cwd=work_tree or git_dir,
        env=env,
        cancelled=cancelled,
    )


def _argv(words: Sequence[str], git_dir: Path, work_tree: Path | None) -> list[str]:
    """The command. It is started at the top of the work tree: from further down, git would see only what is there."""
    place = [f"--git-dir={git_dir}"]
    if work_tree is not None:
        place.append(f"--work-tree={work_tree}")
    return ["git", *place, *words]


def without_credentials(text: bytes) -> bytes:
    """`text` with the name and the password left out of its URLs; a name that ssh logs in by stays."""

    def bare(found: re.Match[bytes]) -> bytes:
        scheme, name = found[1], re.split(rb"[:@]", found[2])[0]
        return scheme + name + b"@" if name and scheme.lower() == b"ssh://" else scheme

    return _CREDENTIALS.sub(bare, text)


def plain_url(url: str) -> str:
    """`url` without a login, to be shown and kept."""
    return os.fsdecode(without_credentials(os.fsencode(url)))


def require_source(url: str, ref: str | None) -> None:
    """Raises `InvalidArgument` for what is never fetched, be it there or not."""
    if not _URL.fullmatch(url):
        raise InvalidArgument(
            f"cannot clone {plain_url(url)[:300]!a}: it is no URL that is fetched from here",
            hint="Give https://…, ssh://…, git://…, file://…, user@host:path or an absolute path",
        )
    if ref is not None and (not _REF.fullmatch(ref) or ".." in ref or "@{" in ref):
        raise InvalidArgument(f"cannot check out {ref[:100]!a}: it is no branch, tag or commit")


def top_level(path: Path) -> Path | None:
    """The top directory of the checkout that holds `path`, links resolved; None where there is none.

    Asks the directories only, never git: whose repository this is has not been decided yet.
    """
    real = path.resolve()
    return next((one for one in (real, *real.parents) if os.path.lexists(one / ".git")), None)


def project_top(path: Path) -> Path | None:
    """The same, where it is a project: a checkout of the whole home directory, or of everything, is none."""
    found = top_level(path)
    return None if found in (Path("/"), Path.home().resolve()) else found
