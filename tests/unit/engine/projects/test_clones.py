"""Kept clones: clean, fresh, whole or absent, and no login or hostile content of theirs reaches this host."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.engine.projects import clones as module
from pyro_mcp.engine.projects.clones import Clones
from pyro_mcp.errors import Cancelled, InvalidArgument, NotFound, PyroError
from pyro_mcp.operations.call import Call
from pyro_mcp.system.clock import Clock

OWN = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C", "PATH": os.environ["PATH"]}
ENVIRON = {"HOME": "/nonexistent", "PATH": os.environ["PATH"]}


class Time(Clock):
    """A clock that is set by hand."""

    now = 1_000_000.0

    def wall(self) -> float:
        return self.now


def git(root: Path, *words: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    return subprocess.run(
        ["git", *identity, *words], cwd=root, env=OWN, check=True, capture_output=True, text=True
    ).stdout


def commit(root: Path, text: str) -> str:
    (root / "file").write_text(text)
    git(root, "add", ".")
    git(root, "commit", "-qm", text)
    return git(root, "rev-parse", "HEAD").strip()


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    root = tmp_path / "remote"
    root.mkdir()
    git(root, "init", "-q", "-b", "trunk")
    commit(root, "one")
    git(root, "tag", "-a", "v1", "-m", "x")
    git(root, "branch", "side")
    return root


class Lab:
    def __init__(self, home: Path, remote: Path) -> None:
        self.home, self.url = home, f"file://{remote}"
        self.clock = Time()
        self.notices: list[str] = []
        self.steps: list[str] = []
        self.break_at: int | None = None
        self.report = -1

    def faults(self, step: str) -> None:
        self.steps.append(step)
        if len(self.steps) == self.break_at:
            os.write(self.report, step.encode())
            os._exit(9)

    def call(self) -> Call[Any]:
        return Call(None, emit=self.notices.append)

    def clones(self) -> Clones:
        return Clones(self.home, self.clock, self.faults)

    def read(self, ref: str | None = None, url: str | None = None) -> tuple[str, str]:
        with self.clones().checkout(self.call(), url or self.url, ref, ENVIRON) as clone:
            assert git(clone.root, "status", "--porcelain", "--ignored") == ""
            return (clone.root / "file").read_text(), git(clone.root, "branch", "--show-current").strip()


@pytest.fixture
def lab(tmp_path: Path, remote: Path) -> Lab:
    return Lab(tmp_path / "cache" / "projects", remote)


def test_a_clone_is_made_once_and_fetched_when_it_is_old(lab: Lab, remote: Path) -> None:
    assert lab.read() == ("one", "trunk")
    commit(remote, "two")
    assert lab.read() == ("one", "trunk")
    lab.clock.now += module.FRESH_SECONDS
    assert lab.read() == ("two", "trunk")
    assert lab.steps.count("clone made") == 1
    # The network is gone: what is there is used, and that is said.
    remote.rename(remote.with_name("away"))
    assert lab.read() == ("two", "trunk")
    assert lab.notices == []
    lab.clock.now += 3 * 3600
    assert lab.read() == ("two", "trunk")
    assert lab.notices == [f"{lab.url} cannot be fetched; what was fetched 3 h ago is used"]


def test_branches_tags_and_commits(lab: Lab, remote: Path) -> None:
    first = git(remote, "rev-parse", "HEAD").strip()
    commit(remote, "two")
    assert lab.read() == ("two", "trunk")
    assert lab.read("side") == ("one", "side")
    assert lab.read("v1") == ("one", "")
    assert lab.read(first) == ("one", "")
    assert lab.read() == ("two", "trunk")
    with pytest.raises(NotFound, match="'nope'") as caught:
        lab.read("nope")
    assert "It has: side, trunk, v1" in (caught.value.hint or "")
    # A branch that is newer than what was fetched is asked for at once.
    git(remote, "branch", "later")
    assert lab.read("later") == ("two", "later")
    git(remote, "checkout", "-q", "-B", "side", "trunk")
    commit(remote, "three")
    lab.clock.now += module.FRESH_SECONDS
    assert lab.read("side") == ("three", "side")


def test_what_cannot_be_fetched_is_told_without_logins(lab: Lab, tmp_path: Path) -> None:
    for url in ("ext::sh -c touch", "http://example.com/x", "-oProxyCommand=x", "--upload-pack=x", "fd::7"):
        with pytest.raises(InvalidArgument, match="no URL"):
            lab.read(url=url)
    for ref in ("-x", "--upload-pack=x", "a..b", "HEAD@{1}", "a b", "a:b", "^a", ""):
        with pytest.raises(InvalidArgument, match="no branch, tag or commit"):
            lab.read(ref)
    with pytest.raises(PyroError, match="cannot fetch https://127") as caught:
        lab.read(url="https://ada:s3cret@127.0.0.1:1/x")
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in "".join(lab.notices)
    held = [path.read_bytes() for path in lab.home.rglob("*") if path.is_file()]
    assert not any(b"s3cret" in data for data in held)
    assert not [path for path in lab.home.glob("*/*") if path.name != "lock"]


def test_nothing_that_a_remote_holds_is_run(lab: Lab, remote: Path, tmp_path: Path) -> None:
    mark, home = tmp_path / "ran", tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f'[filter "evil"]\n\tsmudge = "touch {mark}; cat"\n\tclean = cat\n[core]\n\thooksPath = {home}\n'
    )
    for hook in ("post-checkout", "reference-transaction"):
        (home / hook).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (home / hook).chmod(0o755)
    (remote / ".gitattributes").write_text("* filter=evil\n")
    (remote / ".gitmodules").write_text('[submodule "x"]\n\tpath = x\n\turl = ext::touch\n')
    commit(remote, "two")
    with lab.clones().checkout(lab.call(), lab.url, None, {**ENVIRON, "HOME": str(home)}) as clone:
        assert (clone.root / "file").read_text() == "two"
    assert not mark.exists()


def test_whatever_was_left_the_next_use_is_clean(lab: Lab, remote: Path) -> None:
    lab.read()
    (repo,) = lab.home.glob("*/repo")
    (repo / "file").write_text("half")
    (repo / "stray").write_text("x")
    for lock in ("index.lock", "HEAD.lock", "refs/heads/trunk.lock", "packed-refs.lock"):
        (repo / ".git" / lock).touch()
    assert lab.read() == ("one", "trunk")
    (repo / ".git" / "pyro-fetched").write_text("{")
    assert lab.read() == ("one", "trunk")


def damage(repo: Path, what: str) -> None:
    made = repo / ".git"
    if what in ("objects", "both"):
        shutil.rmtree(made / "objects")
    if what in ("HEAD", "both"):
        (made / "HEAD").write_text("bad\n")
    if what == "empty":
        shutil.rmtree(made / "objects")
        (made / "objects").mkdir()
    if what == "refs":
        (made / "refs" / "remotes" / "origin" / "side").write_text("bad\n")
    if what == "about":
        (made / "pyro-fetched").write_text("[]")
    if what == "git":
        shutil.rmtree(made)
        made.write_text("no repository")
    if what == "blob":
        name = git(repo, "rev-parse", "HEAD:file").strip()
        for pack in (made / "objects" / "pack").glob("*.pack"):
            data = pack.read_bytes()
            pack.unlink()
            subprocess.run(["git", "unpack-objects", "-q"], cwd=repo, env=OWN, input=data, check=True)
        (made / "objects" / name[:2] / name[2:]).unlink()
        (repo / "file").unlink()
    if what == "index":
        (made / "index").write_text("bad")


@pytest.mark.parametrize("what", ["objects", "HEAD", "both", "empty", "refs", "about", "git", "blob", "index"])
@pytest.mark.parametrize("old", [False, True])
def test_what_is_damaged_is_made_anew(lab: Lab, remote: Path, what: str, old: bool) -> None:
    lab.read()
    (repo,) = lab.home.glob("*/repo")
    damage(repo, what)
    lab.clock.now += module.FRESH_SECONDS if old else 0
    assert lab.read() == ("one", "trunk")
    assert lab.read("side") == ("one", "side")
    made = lab.steps.count("clone made")
    assert made <= 2
    if what not in ("about", "git"):
        assert lab.notices == [f"the kept clone of {lab.url} is damaged; it is made anew"] * (made - 1)


def test_what_is_damaged_and_cannot_be_made_anew_is_told(lab: Lab, remote: Path) -> None:
    lab.read()
    (repo,) = lab.home.glob("*/repo")
    damage(repo, "both")
    remote.rename(remote.with_name("away"))
    with pytest.raises(PyroError, match="cannot fetch file://") as caught:
        lab.read()
    assert "git ls-remote" in (caught.value.hint or "")
    remote.with_name("away").rename(remote)
    assert lab.read() == ("one", "trunk")


def killed_at(lab: Lab, number: int) -> str | None:
    """The step at which a use in a process of its own was killed, the `number`-th; None when there was none."""
    reading, lab.report = os.pipe()
    lab.break_at = number
    with warnings.catch_warnings():
        # Other tests may have left threads; the child needs none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        code = 1
        try:
            lab.read()
            code = 0
        finally:
            os._exit(code)
    os.close(lab.report)
    lab.break_at = None
    with open(reading) as said:
        step = said.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (9 if step else 0)
    return step or None


def test_killed_at_every_step_the_next_use_is_whole(tmp_path: Path, remote: Path) -> None:
    reached = set()
    for after in (0, module.FRESH_SECONDS):
        for number in range(1, 20):
            lab = Lab(tmp_path / f"{after}-{number}", remote)
            if after:
                lab.read()
                lab.steps.clear()
                lab.clock.now += after
            step = killed_at(lab, number)
            if step is None:
                break
            reached.add(step)
            assert lab.read() == ("one", "trunk")
            assert sorted(path.name for path in lab.home.glob("*/*")) == ["lock", "repo"]
    assert reached == {"clone fetched", "clone noted", "clone made", "clone checked out"}


def test_a_cancelled_fetch_ends_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    fifo = tmp_path / "bin"
    fifo.mkdir()
    (fifo / "ssh").write_text("#!/bin/sh\nexec sleep 300\n")
    (fifo / "ssh").chmod(0o755)
    call = lab.call()
    timer = threading.Timer(0.5, call.cancel)
    timer.start()
    environ = {**ENVIRON, "PATH": f"{fifo}:{ENVIRON['PATH']}"}
    with pytest.raises(Cancelled), lab.clones().checkout(call, "ssh://git@example.com/x", None, environ):
        raise AssertionError
    timer.join()
    assert sorted(path.name for path in lab.home.glob("*/*")) == ["lock"]


def test_two_uses_wait_for_each_other(lab: Lab) -> None:
    lab.read()
    order: list[str] = []

    def second() -> None:
        lab.read("side")
        order.append("second")

    with lab.clones().checkout(lab.call(), lab.url, None, ENVIRON) as clone:
        other = threading.Thread(target=second)
        other.start()
        other.join(0.5)
        order.append("first")
        assert git(clone.root, "branch", "--show-current") == "trunk\n"
    other.join()
    assert order == ["first", "second"]
