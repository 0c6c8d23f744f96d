"""A git checkout as a source: what travels, what stays, and that a hostile repository runs and reads nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyro_mcp.errors import Conflict, InvalidArgument, NotFound, Unsupported
from pyro_mcp.model.sync import Skipped
from pyro_mcp.protocol.entries import Entry, Piece
from pyro_mcp.system import git
from pyro_mcp.trees import checkout as module
from pyro_mcp.trees.checkout import Changed, CheckoutSource, read_checkout

Repository = Callable[..., str]
OWN = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C", "PATH": os.environ["PATH"]}
ENVIRON = {"HOME": "/nonexistent", "PATH": os.environ["PATH"]}


def run(root: Path, *words: str, **options: Any) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "protocol.file.allow=always")
    done = subprocess.run(
        ["git", *identity, *words], cwd=root, env=OWN, check=True, capture_output=True, text=True, **options
    )
    return done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with a commit, a change, and something of every kind."""
    place = tmp_path / "repo"
    (place / "src").mkdir(parents=True)
    run(place, "init", "-q", "-b", "main")
    (place / "src" / "app.py").write_text("print(1)\n")
    (place / "gone").write_text("x")
    (place / ".gitignore").write_text("*.log\n/build/\n")
    (place / "kept.log").write_text("tracked though ignored\n")
    run(place, "add", "-f", ".")
    run(place, "commit", "-qm", "first")
    (place / "src" / "app.py").write_text("print(2)\n")
    (place / "gone").unlink()
    (place / "new").write_text("untracked\n")
    (place / "noise.log").write_text("ignored\n")
    (place / "build").mkdir()
    (place / "build" / "huge").write_text("ignored\n")
    return place


@pytest.fixture
def work(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    return place


def take(root: Path, work: Path, **options: Any) -> tuple[Path, CheckoutSource]:
    """The copy that a guest would find."""
    source = CheckoutSource(read_checkout(root, work, ENVIRON), **options)
    target = work / "copy"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    last = target
    for item in source:
        if isinstance(item, Piece):
            with last.open("r+b") as file:
                file.seek(item.offset)
                file.write(item.data)
            continue
        assert isinstance(item, Entry)
        last = target / item.path
        if item.type == "directory":
            last.mkdir()
        elif item.type == "symlink":
            last.symlink_to(item.target)
        elif item.type == "hardlink":
            os.link(target / item.target, last)
        else:
            last.write_bytes(b"")
            last.chmod(item.mode | 0o200)
    return target, source


def names(root: Path) -> set[str]:
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if not path.is_dir() and ".git" not in path.relative_to(root).parts
    }


def test_tracked_and_untracked_files_travel_as_they_lie_there_and_git_works_on_them(root: Path, work: Path) -> None:
    copy, source = take(root, work)
    assert names(copy) == {"src/app.py", ".gitignore", "kept.log", "new"}
    assert run(copy, "status", "--porcelain") == " D gone\n M src/app.py\n?? new\n"
    assert run(copy, "log", "--format=%s") == "first\n"
    assert run(copy, "fsck", "--strict") == ""
    # Nobody is asked who commits.
    subprocess.run(["git", "commit", "-qam", "inside"], cwd=copy, env=OWN, check=True)
    assert source.checkout.head == run(root, "rev-parse", "HEAD").strip()
    assert (source.checkout.root, source.checkout.branch) == (root, "main")
    assert source.skipped == []
    assert list(work.glob(".git-*")) == []


@pytest.mark.parametrize("index", ["2", "4", "split", "packed", "sha256", "detached", "unborn"])
def test_every_form_of_a_repository(index: str, root: Path, work: Path) -> None:
    if index in ("2", "4"):
        run(root, "update-index", "--index-version", index)
    elif index == "split":
        run(root, "update-index", "--split-index")
        (root / "later").write_text("x")
        run(root, "add", "later")
    elif index == "packed":
        run(root, "gc", "-q")
    elif index == "detached":
        run(root, "checkout", "-q", "--detach")
    elif index in ("sha256", "unborn"):
        shutil.rmtree(root / ".git")
        run(root, "init", "-q", "-b", "trunk", *(["--object-format=sha256"] if index == "sha256" else []))
        if index == "sha256":
            run(root, "add", ".")
            run(root, "commit", "-qm", "x")
    copy, source = take(root, work)
    assert run(copy, "status", "--porcelain") == run(root, "status", "--porcelain")
    run(copy, "fsck", "--strict")
    assert source.checkout.head == (None if index == "unborn" else run(root, "rev-parse", "HEAD").strip())
    assert (source.checkout.branch is None) is (index == "detached")


def test_a_path_within_stands_for_the_whole_and_one_without_is_told(root: Path, work: Path, tmp_path: Path) -> None:
    assert read_checkout(root / "src", work, ENVIRON).root == root
    link = tmp_path / "link"
    link.symlink_to(root)
    assert read_checkout(link, work, ENVIRON).root == root
    with pytest.raises(NotFound, match=r"no \.git in it or above it"):
        read_checkout(tmp_path, work, ENVIRON)


def test_a_state_directory_within_the_project_does_not_narrow_it(root: Path) -> None:
    inside = root / "build" / "state"
    inside.mkdir(parents=True)
    assert read_checkout(root, inside, ENVIRON).selection.takes("src/app.py")


def test_the_users_own_ignore_list_counts_and_nothing_else_of_theirs(root: Path, work: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".config" / "git").mkdir(parents=True)
    (home / ".config" / "git" / "ignore").write_text("new\n")
    mark = tmp_path / "ran"
    (home / ".gitconfig").write_text(f"[core]\n\tfsmonitor = touch {mark}\n\thooksPath = {home}\n")
    found = read_checkout(root, work, {**ENVIRON, "HOME": str(home)})
    assert not found.selection.takes("new")
    assert found.selection.takes("src/app.py")
    assert not mark.exists()


def test_what_lies_elsewhere_is_refused_with_what_to_do(root: Path, work: Path, tmp_path: Path) -> None:
    linked, shared, moved = tmp_path / "linked", tmp_path / "shared", tmp_path / "moved"
    run(root, "worktree", "add", "-q", str(linked))
    with pytest.raises(Unsupported, match="a linked work tree or a submodule"):
        read_checkout(linked, work, ENVIRON)
    run(tmp_path, "clone", "-q", "--shared", str(root), str(shared))
    with pytest.raises(Unsupported, match="borrows objects") as caught:
        read_checkout(shared, work, ENVIRON)
    assert "git repack -a -d" in (caught.value.hint or "")
    moved.mkdir()
    (moved / ".git").symlink_to(root / ".git")
    with pytest.raises(Unsupported, match="symbolic link"):
        read_checkout(moved, work, ENVIRON)
    (root / ".git" / "objects").rename(tmp_path / "objects")
    (root / ".git" / "objects").symlink_to(tmp_path / "objects")
    with pytest.raises(Unsupported, match=r"\.git/objects is a symbolic link"):
        read_checkout(root, work, ENVIRON)


def test_submodules_and_nested_repositories_are_left_out_and_told(root: Path, work: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run(tmp_path, "clone", "-q", str(root), str(other))
    run(root, "submodule", "--quiet", "add", str(other), "lib")
    run(tmp_path, "clone", "-q", str(root), str(root / "nested"))
    copy, source = take(root, work)
    reasons = {one.path: one.reason for one in source.skipped}
    assert reasons["lib"] == module.SUBMODULE
    assert reasons["nested"] == module.NESTED
    assert ".git/modules" in reasons
    assert list((copy / "lib").iterdir()) == []
    assert not (copy / "nested").exists()
    assert not (copy / ".git" / "modules").exists()


# -- a repository that a guest wrote


HOSTILE = """
[core]
\tfsmonitor = "touch {mark}; false"
\thooksPath = {bad}
\tpager = "touch {mark}"
\teditor = "touch {mark}"
\tsshCommand = "touch {mark}"
\taskPass = "touch {mark}"
\tgitProxy = "touch {mark}"
\tworktree = {outside}
\texcludesFile = {outside}/ignore
\tattributesFile = {outside}/attributes
\talternateRefsCommand = "touch {mark}"
[alias]
\tls-files = "!touch {mark}"
\tconfig = "!touch {mark}"
[filter "evil"]
\tclean = "touch {mark}"
\tsmudge = "touch {mark}"
\tprocess = "touch {mark}"
\trequired = true
[diff]
\texternal = "touch {mark}"
[credential]
\thelper = "!touch {mark}"
[include]
\tpath = {outside}/more
[includeIf "gitdir:**"]
\tpath = {outside}/more
[uploadpack]
\tpackObjectsHook = "touch {mark}"
[trace2]
\tnormalTarget = {mark}
"""


def test_nothing_that_a_hostile_repository_names_is_run_or_read(root: Path, work: Path, tmp_path: Path) -> None:
    outside, mark, bad = tmp_path / "outside", tmp_path / "ran", tmp_path / "bad"
    outside.mkdir()
    bad.mkdir()
    (outside / "ignore").write_text("new\n")
    (outside / "attributes").write_text("* filter=evil\n")
    (outside / "more").write_text(f"[core]\n\tfsmonitor = touch {mark}\n[user]\n\tname = outsider\n")
    (outside / "secret").write_text("canary")
    for place in (bad, root / ".git" / "hooks"):
        for hook in ("post-index-change", "reference-transaction", "post-checkout", "fsmonitor-watchman"):
            (place / hook).write_text(f"#!/bin/sh\ntouch {mark}\n")
            (place / hook).chmod(0o755)
    (root / ".gitattributes").write_text("* filter=evil diff=evil\n")
    (root / ".git" / "info" / "attributes").write_text("* filter=evil\n")
    with (root / ".git" / "config").open("a") as config:
        config.write(HOSTILE.format(mark=mark, outside=outside, bad=bad))
    os.utime(root / "src" / "app.py")
    copy, source = take(root, work)
    assert not mark.exists()
    assert "new" in names(copy)
    assert "secret" not in names(copy)
    written = (copy / ".git" / "config").read_text()
    for word in ("touch", "outside", "alias", "filter", "include", "hooksPath", "credential", "outsider"):
        assert word not in written
    reasons = {one.path: one.reason for one in source.skipped}
    assert "alias.ls-files" in reasons[".git/config"]
    assert reasons[".git/hooks"] == "hooks stay on this host"
    assert not (copy / ".git" / "hooks").exists()
    # The trap is armed: whoever runs git there runs it.
    subprocess.run(["git", f"--work-tree={root}", "status"], cwd=root, env=OWN, check=False, capture_output=True)
    assert mark.exists()


def test_no_trick_of_links_leads_out(root: Path, work: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "app.py").write_text("canary")
    shutil.rmtree(root / "src")
    (root / "src").symlink_to(outside)
    copy, _ = take(root, work)
    assert (copy / "src").is_symlink()
    shutil.rmtree(root / ".git" / "logs")
    (root / ".git" / "logs").symlink_to(outside)
    with pytest.raises(Unsupported, match=r"\.git/logs is a symbolic link"):
        take(root, work)
    (root / ".git" / "logs").unlink()
    (root / ".git" / "hooks").rename(tmp_path / "hooks")
    (root / ".git" / "hooks").symlink_to(outside)
    assert take(root, work)[1].skipped == []


def test_an_index_may_name_anything_and_gains_nothing(root: Path, work: Path) -> None:
    blob = run(root, "hash-object", "-w", "--stdin", input="x").strip()
    # As long as what they replace: git itself refuses to write such names, so the index is forged.
    for plain in ("xgit/hooks/evil", "xx/outside", "xetc/passwd"):
        run(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{plain}")
    index = root / ".git" / "index"
    forged = index.read_bytes()
    for plain, evil in ((b"xgit/hooks/evil", b".git/hooks/evil"), (b"xx/outside", b"../outside"), (b"xetc", b"/etc")):
        forged = forged.replace(plain, evil)
    import hashlib

    index.write_bytes(forged[:-20] + hashlib.sha1(forged[:-20]).digest())
    (root / ".git" / "hooks" / "evil").write_text("#!/bin/sh\n")
    (root.parent / "outside").write_text("canary")
    copy, _ = take(root, work)
    assert not (copy / ".git" / "hooks").exists()
    assert "src/app.py" in names(copy)
    assert not any("outside" in name or "passwd" in name for name in names(copy))


@pytest.mark.parametrize("damage", ["index", "config", "extension", "HEAD"])
def test_a_damaged_repository_is_refused_in_words(damage: str, root: Path, work: Path) -> None:
    if damage == "index":
        (root / ".git" / "index").write_bytes(b"DIRC" + b"\xff" * 64)
    elif damage == "HEAD":
        (root / ".git" / "HEAD").unlink()
    else:
        text = "[core\n" if damage == "config" else "[extensions]\n\tmadeUp = true\n"
        (root / ".git" / "config").write_text(text)
    with pytest.raises((InvalidArgument, Unsupported), match="cannot"):
        read_checkout(root, work, ENVIRON)
    assert list(work.iterdir()) == []


# -- credentials


def test_logins_stay_on_this_host(root: Path, work: Path) -> None:
    run(root, "remote", "add", "origin", "https://ada:s3cret@example.com/r.git")
    run(root, "remote", "add", "token", "https://t0ken@example.com/r.git")
    run(root, "remote", "add", "ssh", "ssh://git:pa55@example.com/r.git")
    run(root, "config", "http.extraHeader", "Authorization: Bearer h3ader")
    run(root, "config", "branch.main.remote", "origin")
    run(root, "commit", "-q", "--allow-empty", "-m", "x", input="")
    log = root / ".git" / "logs" / "HEAD"
    log.write_text(log.read_text().replace("commit: x", "pull https://ada:l0g@example.com/r.git: Fast-forward"))
    (root / ".git" / "FETCH_HEAD").write_text("https://ada:f3tch@example.com/r.git\n")
    copy, source = take(root, work)
    everything = b"".join(path.read_bytes() for path in (copy / ".git").rglob("*") if path.is_file())
    for secret in (b"s3cret", b"t0ken", b"pa55", b"h3ader", b"l0g", b"f3tch"):
        assert secret not in everything
    assert run(copy, "remote", "get-url", "origin") == "https://example.com/r.git\n"
    assert run(copy, "remote", "get-url", "ssh") == "ssh://git@example.com/r.git\n"
    assert run(copy, "config", "branch.main.remote") == "origin\n"
    assert "Fast-forward" in run(copy, "reflog")
    reason = next(one.reason for one in source.skipped if one.path == ".git/config")
    assert "http.extraheader" in reason
    assert "the login in remote.origin.url" in reason


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (b"https://a:b@h/x https://h/x@y", b"https://h/x https://h/x@y"),
        (b"ssh://git:p@ss@h/x", b"ssh://git@h/x"),
        (b"ssh://:p@h", b"ssh://h"),
        (b"git@h:x", b"git@h:x"),
        (b'url = "https://tok@h"', b'url = "https://h"'),
    ],
)
def test_what_a_login_is(given: bytes, left: bytes) -> None:
    assert git.without_credentials(given) == left


def test_a_setting_comes_back_as_it_was(root: Path, work: Path) -> None:
    name = 'we"ird\\ \n\tname #; x '
    run(root, "config", "user.name", name)
    run(root, "config", 'branch.a"b\\c d.merge', "refs/heads/x")
    copy, _ = take(root, work)
    assert run(copy, "config", "--local", "-z", "user.name") == name + "\0"
    assert run(copy, "config", "--local", 'branch.a"b\\c d.merge') == "refs/heads/x\n"


# -- a repository at work


def test_a_lock_is_waited_for_and_then_named(root: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = root / ".git" / "index.lock"
    lock.touch()
    timer = threading.Timer(0.3, lock.unlink)
    timer.start()
    copy, _ = take(root, work)
    timer.join()
    assert not (copy / ".git" / "index.lock").exists()
    lock.touch()
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.1)
    with pytest.raises(Conflict, match="git is at work in it"):
        read_checkout(root, work, ENVIRON)


@pytest.mark.parametrize("what", ["commit", "gc"])
def test_a_repository_that_changes_meanwhile_is_no_seed(what: str, root: Path, work: Path) -> None:
    source = CheckoutSource(read_checkout(root, work, ENVIRON))
    items = iter(source)
    next(items)
    run(root, *(["commit", "-qam", "meanwhile"] if what == "commit" else ["gc", "-q"]))
    with pytest.raises(Changed, match="git changed its repository meanwhile"):
        list(items)


def test_what_git_has_not_finished_stays(root: Path, work: Path) -> None:
    for name in ("HEAD.lock", "refs/heads/main.lock", "objects/pack/tmp_pack_x", "objects/tmp_obj_x", "gc.pid"):
        (root / ".git" / name).parent.mkdir(exist_ok=True)
        (root / ".git" / name).write_text("x")
    copy, source = take(root, work)
    assert not [path for path in (copy / ".git").rglob("*") if path.name.endswith((".lock", ".pid", "_x"))]
    assert source.skipped == []
    assert all(isinstance(one, Skipped) for one in source.skipped)
