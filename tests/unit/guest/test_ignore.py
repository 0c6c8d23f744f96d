"""What a .gitignore leaves out, with git itself as the judge; and patterns made to run for ever."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyro_mcp.guest.errors import AgentError
from pyro_mcp.guest.tree.glob import Glob
from pyro_mcp.guest.tree.ignore import MAX_FILE, IgnoreRules, Patterns
from pyro_mcp.guest.tree.wildcard import name_pattern, path_pattern


def ignored(root: Path, path: str) -> bool:
    """Whether our rules leave `path` out."""
    opened = [os.open(root, os.O_RDONLY)]
    try:
        rules = IgnoreRules(opened[0])
        *above, name = path.split("/")
        for one in above:
            opened.append(os.open(one, os.O_RDONLY, dir_fd=opened[-1]))
            rules = rules.enter(one.encode(), opened[-1])
        return rules.ignores(name.encode(), directory=(root / path).is_dir())
    finally:
        for fd in opened:
            os.close(fd)


def judged(root: Path, paths: list[str]) -> set[str]:
    """Those that git leaves out."""
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run(
        ["git", "check-ignore", "-z", "--stdin", "--no-index"],
        cwd=root,
        env=environ,
        input="\0".join(paths),
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    return set(done.stdout.split("\0")) - {""}


TREE = [
    *("a", "b.o", "ab", "a b", "src/a", "src/b.o", "src/build/x", "build/x", "build/deep/y.o", "docs/a/b/c.txt"),
    *("docs/b/a", "node_modules/m/index.js", "src/node_modules/m/x", "é.txt", "x/.hidden", "#hash", "!bang", "end "),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def everything(root: Path) -> list[str]:
    found = [path.relative_to(root).as_posix() for path in root.rglob("*")]
    return [path for path in found if not path.startswith(".git/") and path != ".git"]


def compare(root: Path) -> set[str]:
    paths = everything(root)
    wanted = judged(root, paths)
    ours = {path for path in paths if ignored(root, path)}
    assert ours == wanted, root.joinpath(".gitignore").read_bytes()
    return wanted


@pytest.mark.parametrize(
    "text",
    [
        "*.o\n",
        "build/\n",
        "/build\n",
        "src/build\n",
        "node_modules\n",
        "**/a\n",
        "docs/**/a\n",
        "docs/**\n",
        "docs/**/\n",
        "a/**/c.txt\n",
        "docs/*/b\n",
        "*\n!*.o\n!*/\n",
        "build/\n!build/x\n",
        "build/*\n!build/x\n",
        "# a\n\\#hash\n\\!bang\n",
        "a \n",
        "a\\ b\n",
        "end\\ \n",
        "*.o\r\nab\r\n",
        "\ufeffab\n",
        "[a-b]\n",
        "[!a]\n",
        "[]a]\n",
        "[a\n",
        "[[:alpha:]]*\n",
        "?.o\n",
        "a?\n",
        ".*\n",
        "/\n",
        "**\n",
        "/**\n",
        "**/**\n",
        "é*\n",
        "src/**/**/x\n",
        "*a*b*\n",
        "\\\n",
        "a\\",
    ],
)
def test_git_and_we_leave_out_the_same(tree: Path, text: str) -> None:
    (tree / ".gitignore").write_text(text)
    compare(tree)


def test_deeper_files_and_the_repositorys_own_count_in_gits_order(tree: Path) -> None:
    (tree / ".git/info").mkdir(exist_ok=True)
    (tree / ".git/info/exclude").write_text("ab\ndocs\n*.txt\n")
    (tree / ".gitignore").write_text("!docs\n*.o\n/x\n")
    (tree / "src/.gitignore").write_text("!b.o\n/a\nbuild\n")
    found = compare(tree)
    assert {"ab", "b.o", "x", "x/.hidden", "src/a", "src/build/x", "docs/a/b/c.txt"} <= found
    assert not {"src/b.o", "docs", "a"} & found


NAMES = st.sampled_from(["a", "b", "ab", "*", "?", "**", "a*", "*b", "[ab]", "[!a]", "a*b", "x", "*.o", "\\*"])
LINES = st.builds(
    lambda bang, root, names, end: f"{bang}{root}{'/'.join(names)}{end}",
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/"]),
    st.lists(NAMES, min_size=1, max_size=4),
    st.sampled_from(["", "", "/"]),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    subprocess.run(["git", "init", "-q", root], check=True)
    for name in ("a", "ab/a", "ab/b/x.o", "b/a/b", "b/ab/a/ab", "x/b.o", "x/x/x/a"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=4), below=st.lists(LINES, max_size=2))
def test_any_patterns_mean_what_git_says(small: Path, lines: list[str], below: list[str]) -> None:
    (small / ".gitignore").write_text("\n".join(lines))
    (small / "b/.gitignore").write_text("\n".join(below))
    compare(small)


def hostile() -> Iterator[tuple[bytes, bytes]]:
    yield b"*a" * 300 + b"b", b"a" * 255
    yield b"**/" + b"*a" * 100 + b"b", b"/".join([b"a" * 15] * 256)
    yield b"**/a/" * 100 + b"b", b"/".join([b"a"] * 250)
    yield b"a/**/" * 100 + b"*b", b"/".join([b"a"] * 250)
    yield b"[!b]*" * 200 + b"b", b"a" * 255
    yield b"?*" * 200 + b"b", b"a" * 255


@pytest.mark.parametrize(("pattern", "path"), list(hostile()))
def test_no_pattern_runs_away(pattern: bytes, path: bytes) -> None:
    begun = time.process_time()
    made = path_pattern(pattern) if b"/" in pattern else name_pattern(pattern)
    assert re.compile(b"(?s:" + made + b")").fullmatch(path) is None
    # Backtracking would take longer than there is time in the world.
    assert time.process_time() - begun < 5


def test_hostile_files_are_bounded_or_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "secret").write_text("a\n")
    (tmp_path / ".gitignore").symlink_to("secret")
    assert not ignored(tmp_path, "a")
    (tmp_path / ".gitignore").unlink()
    os.mkfifo(tmp_path / ".gitignore")
    assert not ignored(tmp_path, "a")
    (tmp_path / ".gitignore").unlink()
    (tmp_path / ".gitignore").mkdir()
    assert not ignored(tmp_path, "a")
    (tmp_path / ".gitignore").rmdir()
    (tmp_path / ".gitignore").write_bytes(b"a\n" + b"#" * MAX_FILE)
    assert not ignored(tmp_path, "a")
    (tmp_path / ".gitignore").write_bytes(b"x" * 2000 + b"\n" + bytes(range(256)) + b"\na\n")
    assert ignored(tmp_path, "a")


def test_the_largest_file_of_patterns_is_read_in_time() -> None:
    begun = time.process_time()
    rules = Patterns.parse(b"\n".join(b"*a*%d*" % number for number in range(6000))[:MAX_FILE])
    assert rules.verdict(b"b" * 255, directory=False) is None
    assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.py", "a/b.py", True),
        ("src/*.py", "src/a/b.py", False),
        ("src/**.py", "src/a/b.py", True),
        ("src/**.py", "src/b.py", True),
        ("**/*.{py,{md,txt}}", "a/b.txt", True),
        ("**/*.{py,{md,txt}}", "b.rs", False),
        ("{src,lib}/**", "lib/a/b", True),
        ("{src,lib}/**", "lib", False),
        ("./a", "a", True),
        ("a\\b", "a\\b", True),
        ("[!a]*", "ab", False),
        ("}a,b", "}a,b", True),
    ],
)
def test_globs_mean_what_people_expect(pattern: str, path: str, expected: bool) -> None:
    assert Glob(pattern).matches(path.encode()) is expected


@pytest.mark.parametrize("pattern", ["*a" * 300 + "b", "{a,b}*" * 8 + "c", "**/*a*a*a*a*a*a*a*b", "a**" * 50 + "/b"])
def test_no_glob_runs_away(pattern: str) -> None:
    begun = time.process_time()
    assert not Glob(pattern).matches(b"/".join([b"a" * 255] * 16))
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("pattern", ["{a", "[a", "[z-a]", "{a,b}" * 9, "{" * 200 + "a" + "}" * 200 + "{"])
def test_a_glob_that_is_not_closed_or_is_too_many_is_refused(pattern: str) -> None:
    with pytest.raises(AgentError):
        Glob(pattern)
