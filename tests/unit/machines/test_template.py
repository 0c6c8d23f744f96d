"""The template store with files of the right shape; restoring a real guest is in tests/guest."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path

import pytest

from pyro_mcp.machines.template import MANIFEST, RAM, SCRATCH, STATE, TemplateKind, TemplateStore
from pyro_mcp.system.locks import locked

KIND = TemplateKind("env", "runtime", 1, 1024, "qemu", "tcg", "7.2", "1 quiet", "EPYC", 8192)


def freeze(directory: Path) -> None:
    with (directory / RAM).open("wb") as file:
        os.truncate(file.fileno(), 64 << 20)
        os.pwrite(file.fileno(), b"memory", 32 << 20)
    (directory / STATE).write_bytes(b"state")
    (directory / SCRATCH).write_bytes(b"scratch")


def test_every_input_is_part_of_the_kind() -> None:
    for field in dataclasses.fields(TemplateKind):
        value = getattr(KIND, field.name)
        other = dataclasses.replace(KIND, **{field.name: value + 1 if isinstance(value, int) else value + "x"})
        assert other.digest != KIND.digest, field.name


def test_it_is_built_once_and_found_by_the_next_node(tmp_path: Path) -> None:
    built = TemplateStore(tmp_path).build(KIND, freeze)
    found = TemplateStore(tmp_path).get(KIND)
    assert found == built
    manifest = json.loads((built.directory / MANIFEST).read_text())
    assert manifest["environment"] == "env"
    assert manifest["runtime"] == "runtime"


def test_builders_at_once_share_the_work(tmp_path: Path) -> None:
    calls: list[Path] = []

    def count(directory: Path) -> None:
        calls.append(directory)
        freeze(directory)

    threads = [threading.Thread(target=lambda: TemplateStore(tmp_path).build(KIND, count)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


@pytest.mark.parametrize("name", [RAM, STATE, SCRATCH, MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("known", [True, False], ids=["same node", "next node"])
def test_a_damaged_one_is_rebuilt_never_trusted(tmp_path: Path, name: str, damage: str, known: bool) -> None:
    store = TemplateStore(tmp_path)
    built = store.build(KIND, freeze)
    assert store.get(KIND) == built
    path = built.directory / name
    if damage == "flip":
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), b"\xff", 32 << 20 if name == RAM else 0)
    elif damage == "truncate":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()
    store = store if known else TemplateStore(tmp_path)
    if known and name == MANIFEST:
        assert store.get(KIND) == built  # its files are the very ones this node has digested
        return
    assert store.get(KIND) is None
    assert not built.directory.exists()
    assert store.build(KIND, freeze) == built
    assert store.get(KIND) == built


def test_a_failed_freeze_leaves_nothing_and_the_next_works(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        freeze(directory)
        raise OSError("no space left on device")

    store = TemplateStore(tmp_path)
    with pytest.raises(OSError):
        store.build(KIND, fail)
    assert [path.suffix for path in (tmp_path / "templates").iterdir()] == [".lock"]
    assert store.get(KIND) is None
    store.build(KIND, freeze)


def test_what_a_killed_builder_left_is_swept(tmp_path: Path) -> None:
    leftover = tmp_path / "templates" / f"{KIND.digest}.tmp-dead"
    leftover.mkdir(parents=True)
    (leftover / RAM).write_bytes(b"half")
    TemplateStore(tmp_path).build(KIND, freeze)
    assert not leftover.exists()


def test_what_builders_of_any_kind_left_is_buried_but_never_one_alive(tmp_path: Path) -> None:
    buried: list[str] = []
    other, busy = (dataclasses.replace(KIND, mem_mib=size) for size in (1, 2))
    home = tmp_path / "templates"
    for kind in (KIND, other, busy):
        (home / f"{kind.digest}.tmp-left").mkdir(parents=True)

    def kill_orphan(directory: Path) -> None:
        assert directory.is_dir()
        buried.append(directory.name)

    with locked(home / f"{busy.digest}.lock"):
        TemplateStore(tmp_path, kill_orphan=kill_orphan).build(KIND, freeze)
    assert sorted(buried) == sorted(f"{kind.digest}.tmp-left" for kind in (KIND, other))
    assert [path.name for path in home.glob("*.tmp-*")] == [f"{busy.digest}.tmp-left"]
