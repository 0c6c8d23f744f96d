"""Clones: remote repositories as clean checkouts, one for each URL, made once and kept fresh.

`cache_dir/projects/<digest of the URL>/repo` is a checkout that nobody else writes to; `pyro-fetched` in its
repository says when, and which branch the remote's HEAD names. A login in the URL is not kept. A clone is whole or
absent: it is fetched beside its place and renamed; a refresh that was killed is done over by the next. One that has
been damaged since is made anew.

The user's own git configuration counts while something is fetched, for that needs their credentials, and at no other
time: what was fetched may be hostile.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_mcp.engine.faults import Faults
from pyro_mcp.errors import Cancelled, NotFound, PyroError
from pyro_mcp.operations.call import Call
from pyro_mcp.system import git
from pyro_mcp.system.atomic import disk_errors, make_directory, sync_directory, write_file
from pyro_mcp.system.clock import Clock
from pyro_mcp.system.locks import locked
from pyro_mcp.system.process import CommandFailed
from pyro_mcp.system.progress import ticking
from pyro_mcp.trees.work import work_directory
from pyro_mcp.trees.writer import remove_tree

FRESH_SECONDS = 600.0
"""How old what was fetched may be before a workspace begins with it."""

FETCH_SECONDS = 1800.0
CHECKOUT_SECONDS = 600.0
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_WORK = ".new-"
_ORIGIN = '[remote "origin"]\n\turl = "{url}"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'
REFSPECS = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clone:
    """A clean checkout: its top directory, and the URL without a login."""

    root: Path
    url: str


class Clones:
    """The kept clones of one cache directory, which several nodes may share."""

    def __init__(self, home: Path, clock: Clock, faults: Faults) -> None:
        self._home = home
        self._clock = clock
        self._faults = faults

    @contextlib.contextmanager
    def checkout(self, call: Call[Any], url: str, ref: str | None, environ: Mapping[str, str]) -> Iterator[Clone]:
        """A clean checkout of `ref`, a branch, a tag or a commit, or of what the remote's HEAD names; nobody changes it
        while inside.

        Where the network fails, what was fetched before is used, and that is said. Raises `InvalidArgument`,
        `NotFound`, `PyroError`, `MissingDependency`, `DiskFull` and `Cancelled`.
        """
        git.require_source(url, ref)
        cancelled = threading.Event()
        forget = call.on_cancel(cancelled.set)
        digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        try:
            with disk_errors(f"clone {git.plain_url(url)}"):
                home = make_directory(self._home / digest)
                waiting = lambda: call.progress(f"waiting for another use of {git.plain_url(url)}")  # noqa: E731
                with locked(home / "lock", on_wait=waiting, cancelled=cancelled):
                    one = _Refresh(call, home, url, ref, environ, cancelled, self._clock, self._faults)
                    one.freshen()
                    one.check_out_or_renew()
                    yield Clone(one.repo, git.plain_url(url))
        finally:
            forget()


class _Refresh:
    """One clone being made fresh, by whoever holds its lock."""

    def __init__(
        self,
        call: Call[Any],
        home: Path,
        url: str,
        ref: str | None,
        environ: Mapping[str, str],
        cancelled: threading.Event,
        clock: Clock,
        faults: Faults,
    ) -> None:
        self.repo = home / "repo"
        self._call = call
        self._home = home
        self._url = url
        self._ref = ref
        self._fetching = git.environment(environ, fetches=True)
        self._offline = git.environment(environ, users=False)
        self._cancelled = cancelled
        self._clock = clock
        self._faults = faults

    def freshen(self) -> None:
        """Fetch what is not there, is older than it may be, or lacks the ref."""
        about = self._about()
        for left in self._home.glob(f"{_WORK}*"):
            remove_tree(left)
        if about is None:
            self._make_anew()
            return
        age = self._clock.wall() - float(about["at"])
        if 0 <= age < FRESH_SECONDS and self._start() is not None:
            return
        if not self._sound():
            self._renew()
            return
        _unlock(self.repo / ".git")
        try:
            self._fetch_or_renew()
        except Cancelled:
            raise
        except PyroError as error:
            self._call.notice(f"{git.plain_url(self._url)} cannot be fetched; what was fetched {_ago(age)} ago is used")
            _log.warning(f"{error}")

    def check_out_or_renew(self) -> None:
        """Check out; what is damaged further down than a look at its refs shows is made anew, once."""
        try:
            self._check_out()
        except CommandFailed as error:
            _log.warning(f"{error}")
            self._renew()
            try:
                self._check_out()
            except CommandFailed as again:
                raise PyroError(
                    f"cannot check out {git.plain_url(self._url)}: {again.message}",
                    hint="Run <<prune_environments>> and try again; clone it yourself to see what is wrong with it",
                ) from None
        self._faults("clone checked out")

    def _fetch_or_renew(self) -> None:
        """Fetch; where that fails although the remote answers, it is the clone that is damaged."""
        try:
            self._fetch(self.repo)
        except Cancelled:
            raise
        except PyroError:
            with contextlib.suppress(CommandFailed):
                self._ask_head(self.repo)
                self._renew()
                return
            raise

    def _renew(self) -> None:
        self._call.notice(f"the kept clone of {git.plain_url(self._url)} is damaged; it is made anew")
        self._make_anew()

    def _make_anew(self) -> None:
        with work_directory(self._home, _WORK) as work:
            self._make(work / "repo")
            remove_tree(self.repo)
            os.rename(work / "repo", self.repo)
            sync_directory(self._home)
        self._faults("clone made")

    def _sound(self) -> bool:
        """Whether it is a repository whose refs lead to objects that are there."""
        try:
            words = ("for-each-ref", "--format=%(objecttype)", "refs/remotes", "refs/tags")
            git.ask(words, git_dir=self.repo / ".git", env=self._offline)
        except CommandFailed:
            return False
        return True

    def _make(self, repo: Path) -> None:
        """A repository of ours with nothing in it but what is fetched."""
        repo.mkdir(0o700)
        made = repo / ".git"
        made.mkdir(0o700)
        git.work(("init", "--quiet", "--template="), git_dir=made, work_tree=repo, env=self._offline, timeout=60.0)
        with (made / "config").open("a") as config:
            config.write(_ORIGIN.format(url=git.plain_url(self._url).replace("\\", "\\\\").replace('"', '\\"')))
        self._fetch(repo)

    def _fetch(self, repo: Path) -> None:
        name = git.plain_url(self._url)
        with ticking(self._call.progress, f"Fetching {name}"), _named(name):
            self._run_fetch(repo, *REFSPECS)
            head = self._ask_head(repo)
            if self._ref is not None and _COMMIT.fullmatch(self._ref) and not self._has(repo, self._ref):
                self._run_fetch(repo, self._ref)
        self._faults("clone fetched")
        write_file(repo / ".git" / "pyro-fetched", json.dumps({"at": self._clock.wall(), "head": head}).encode())
        self._faults("clone noted")

    def _run_fetch(self, repo: Path, *refspecs: str) -> None:
        git.work(
            ("fetch", "--quiet", "--prune", "--force", "--no-tags", "--no-write-fetch-head", "pyro", *refspecs),
            git_dir=repo / ".git",
            env=self._with_remote(),
            timeout=FETCH_SECONDS,
            cancelled=self._cancelled,
        )

    def _with_remote(self) -> dict[str, str]:
        """The URL travels in the environment: what stands in a command line, everybody sees."""
        count = int(self._fetching["GIT_CONFIG_COUNT"])
        return {
            **self._fetching,
            f"GIT_CONFIG_KEY_{count}": "remote.pyro.url",
            f"GIT_CONFIG_VALUE_{count}": self._url,
            "GIT_CONFIG_COUNT": str(count + 1),
        }

    def _ask_head(self, repo: Path) -> str | None:
        """The branch that the remote's HEAD names."""
        said = git.ask(("ls-remote", "--symref", "pyro", "HEAD"), git_dir=repo / ".git", env=self._with_remote())
        found = re.match(rb"ref: refs/heads/(\S+)\tHEAD\n", said)
        return os.fsdecode(found[1]) if found else None

    def _check_out(self) -> None:
        """The work tree as the ref has it, whatever a killed predecessor has left there. Raises `CommandFailed`."""
        found = self._start()
        if found is None:
            raise self._no_such_ref()
        _unlock(self.repo / ".git")
        start, branch = found
        self._tree("checkout", "--quiet", "--force", "--detach", start)
        self._forget_branches()
        if branch is not None:
            self._tree("checkout", "--quiet", "--force", "--no-track", "-B", branch, start)
        self._tree("clean", "--quiet", "-ffdx")

    def _start(self) -> tuple[str, str | None] | None:
        """What is to be checked out, and as which branch; None when it is not here."""
        wanted = self._ref or (self._about() or {}).get("head")
        if not isinstance(wanted, str):
            return None
        if self._has(self.repo, f"refs/remotes/origin/{wanted}"):
            return f"refs/remotes/origin/{wanted}", wanted
        names = (f"refs/tags/{wanted}", *([wanted] if _COMMIT.fullmatch(wanted) else []))
        return next(((name, None) for name in names if self._has(self.repo, name)), None)

    def _no_such_ref(self) -> NotFound:
        names = [name.removeprefix("refs/remotes/origin/").removeprefix("refs/tags/") for name in self._refs()]
        what = "its HEAD" if self._ref is None else repr(self._ref)
        hint = f"It has: {', '.join(names[:20])}" if names else "It has no branch and no tag"
        return NotFound(f"cannot check out {what} of {git.plain_url(self._url)}: there is none", hint=hint)

    def _refs(self) -> list[str]:
        words = ("for-each-ref", "--format=%(refname)", "refs/remotes", "refs/tags")
        return [os.fsdecode(one) for one in git.ask(words, git_dir=self.repo / ".git", env=self._offline).split()]

    def _forget_branches(self) -> None:
        """Branches of earlier uses, which the remote may have moved since."""
        words = ("for-each-ref", "--format=delete %(refname)", "refs/heads")
        found = git.ask(words, git_dir=self.repo / ".git", env=self._offline)
        self._tree("update-ref", "--stdin", input=found)

    def _tree(self, *words: str, input: bytes = b"") -> None:
        git.work(
            words,
            input=input,
            git_dir=self.repo / ".git",
            work_tree=self.repo,
            env=self._offline,
            timeout=CHECKOUT_SECONDS,
            cancelled=self._cancelled,
        )

    def _has(self, repo: Path, name: str) -> bool:
        try:
            words = ("rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}")
            git.ask(words, git_dir=repo / ".git", env=self._offline)
        except CommandFailed:
            return False
        return True

    def _about(self) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
            about = json.loads((self.repo / ".git" / "pyro-fetched").read_text())
            return about if isinstance(about, dict) and isinstance(about.get("at"), int | float) else None
        return None


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """What git says, without logins, as a reason why `name` cannot be had."""
    try:
        yield
    except CommandFailed as error:
        said = os.fsdecode(git.without_credentials(os.fsencode(error.message)))
        raise PyroError(
            f"cannot fetch {name}: {said.removeprefix('cannot finish git: ')}",
            hint="See whether `git ls-remote` of it works in your terminal; nobody is asked for a password here, so"
            " give git a credential helper or ssh an agent, and run `pyro node stop` if they are newer than the node",
        ) from None


def _unlock(made: Path) -> None:
    """Locks that a killed git has left: whoever is here is alone."""
    for lock in made.rglob("*.lock"):
        lock.unlink(missing_ok=True)


def _ago(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
