"""The rules of the house that a machine can check: layers, sizes, bans."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "pyro_mcp"
MODULES = sorted(SOURCE.rglob("*.py"))

EDGES = {
    *("surfaces/cli/main.py", "surfaces/mcp/calls.py", "surfaces/feeder.py", "protocol/channel.py"),
    "engine/fleet/installs.py",
}
"""Where a broad `except` may stand: CLI, MCP, what a caller gives as input, the loop that serves agent and node, and a
thread whose waiters raise what it ended with."""


LOG = "node/log.py"
"""Takes the standard streams over."""


COMPOSITION_ROOT = "engine/engine.py"
"""One list of all managers, in the order in which they are built."""


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def test_imports_point_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_stays_readable(path: Path) -> None:
    if name_of(path) == COMPOSITION_ROOT:
        return
    for function in functions(path):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= 50, f"{function.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "a module needs a docstring"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_broad_except_stands_at_the_edges_only(path: Path) -> None:
    if name_of(path) in EDGES:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler) and not raises_again(node):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in {"Exception", "BaseException", "everything"}, f"line {node.lineno} swallows {caught}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_environment_is_read_in_one_place(path: Path) -> None:
    if name_of(path) != "settings.py":
        assert "os.environ" not in path.read_text(), "read it through Settings"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_surfaces_write_to_the_terminal(path: Path) -> None:
    """Below them is `logging`: a print has no time and no level. The agent has a console of its own."""
    if name_of(path).startswith(("surfaces/", "guest/")) or name_of(path) == LOG:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        prints = isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "pprint", "pprint.pprint"}
        streams = isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.stdout", "sys.stderr"}
        assert not prints, f"line {node.lineno} prints"
        assert not streams, f"line {node.lineno} uses a standard stream"


GUESTS_ONLY = {
    "git": {
        *("surfaces/cli/demo.py", "environments/catalog.py", "system/git.py", "system/process.py"),
        *("model/workspace.py", "trees/checkout.py", "api/params.py", "surfaces/mcp/defaults.py"),
    },
    "/bin/sh": {"protocol/readiness.py", "model/command.py"},
}
"""Programs that a workspace can steer, and who names them: to run them in a guest, or to say what one has. The host's
own git is started in `system/git.py` only, where nothing of a repository that pyro has not made reaches it (check 14,
`unit/trees/test_checkout.py`). `system/process.py` knows its package, and the rest call a seed's mode or its parameter
so."""


def test_no_program_that_a_workspace_can_steer_is_started_here() -> None:
    """A repository can make git run anything, and a name a shell."""
    for program, named_in in GUESTS_ONLY.items():
        found = {
            name_of(path)
            for path in MODULES
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and node.value == program
        }
        assert {name for name in found if not name.startswith("guest/")} == named_in


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def raises_again(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler))


def repeated(classes: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The class names that stand more than once, and the modules they stand in."""
    modules: dict[str, list[str]] = {}
    for module, name in classes:
        modules.setdefault(name, []).append(module)
    return {name: found for name, found in modules.items() if len(found) > 1}


def test_a_class_name_stands_once() -> None:
    """A name found by search means one thing, a private one too."""
    classes = [
        (name_of(path), node.name)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    assert repeated(classes) == {}


def test_a_class_name_that_stands_twice_is_found() -> None:
    assert repeated([("a", "Place"), ("b", "Place"), ("a", "_View"), ("b", "_View"), ("a", "One")]) == {
        "Place": ["a", "b"],
        "_View": ["a", "b"],
    }
