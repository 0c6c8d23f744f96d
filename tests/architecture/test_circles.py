"""No modules import each other in a circle: in the package, the tests, the benchmarks and the scripts.

An import counts wherever it stands: in a function, or for types only. import-linter sees layers, not circles in one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

Graph = Mapping[str, set[str]]


def name_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root / "src" if path.is_relative_to(root / "src") else root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph_of(root: Path) -> Graph:
    """Each module of the folders in `root` and those it imports."""
    folders = ("src", "tests", "benchmarks", "scripts")
    paths = {name_of(path, root): path for folder in folders for path in (root / folder).rglob("*.py")}
    # Tests and benchmarks import their helpers by the last part of the name: they are no packages.
    aliases = {path.stem: name for name, path in paths.items() if not path.is_relative_to(root / "src")}
    return {name: set(imported(name, path, paths.keys(), aliases)) for name, path in paths.items()}


def imported(name: str, path: Path, known: Set[str], aliases: Mapping[str, str]) -> Iterator[str]:
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        for wanted in targets(node, package):
            found = next((one for one in (*wanted, *(aliases.get(one, "") for one in wanted)) if one in known), name)
            if found != name:
                yield found


def targets(node: ast.AST, package: str) -> Iterator[tuple[str, ...]]:
    """For each name that a statement imports: the modules it may be, the likeliest first."""
    if isinstance(node, ast.Import):
        yield from ((alias.name,) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield from ((f"{base}.{alias.name}", base) for alias in node.names)


def circles(graph: Graph) -> list[list[str]]:
    """The groups of modules each of which leads to all others of its group."""
    reached = {name: reachable(graph, name) for name in graph}
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return sorted(sorted(group) for group in groups if group)


def reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = graph[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


@cache
def ours() -> list[list[str]]:
    return circles(graph_of(ROOT))


def test_no_circle_of_modules() -> None:
    assert ours() == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("import pack.second", "import pack.first"),
        ("from pack import second", "from pack.first import x"),
        ("from . import second", "from .first import x"),
        ("def late():\n    from pack.second import x", "import pack.first"),
        ("if TYPE_CHECKING:\n    from pack.second import X", "from pack import first"),
        ("from pack.third import x", "from pack import first"),
    ],
)
def test_each_form_of_import_counts(tmp_path: Path, first: str, second: str) -> None:
    third = "from pack.second import x"
    for name, text in {"__init__": "", "first": first, "second": second, "third": third, "fourth": "import os"}.items():
        path = tmp_path / "src" / "pack" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (circle,) = circles(graph_of(tmp_path))
    assert {"pack.first", "pack.second"} <= set(circle) <= {"pack.first", "pack.second", "pack.third"}


def test_helpers_of_tests_count_by_their_last_name(tmp_path: Path) -> None:
    (tmp_path / "tests" / "support").mkdir(parents=True)
    (tmp_path / "tests" / "support" / "lab.py").write_text("import tools")
    (tmp_path / "tests" / "support" / "tools.py").write_text("from lab import x")
    assert circles(graph_of(tmp_path)) == [["tests.support.lab", "tests.support.tools"]]
