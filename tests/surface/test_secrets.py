"""Secrets on real guests, over SDK, CLI and MCP: commands get them, and no answer, file or process list of the host."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pyro_mcp.system.sparse import extents

pytestmark = pytest.mark.guest


def test_a_secret_reaches_its_command_and_nobody_else(
    surface: Any, environ: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    value = f"canary+{request.node.callspec.id}/é-0123456789"
    (tmp_path / "filed").write_text(value + "-filed\n")
    made = surface.do(
        "create_workspace",
        environment="debian:12",
        mem_mib=512,
        secrets={"TOKEN": value},
        secret_files={"FILED": str(tmp_path / "filed")},
    )
    name = made["workspace_id"]
    loud = (
        'printf %s "$T" | wc -c; printf %s "$T" | head -c 9; sleep 0.2; printf %s "$T" | tail -c +10; echo;'
        ' echo "$T" | tee inside; printf %s "$T" | base64 -w0; exit 3'
    )
    try:
        done = surface.do("exec_workspace", workspace_id=name, command=["sh", "-c", loud], secret_env=["TOKEN=T"])
        first, second, third = done["stdout"].splitlines()[:3]
        assert (int(first), second, third, done["exit_code"]) == (len(value.encode()), "[secret]", "[secret]", 3)
        told = [done, surface.do("diff_workspace", workspace_id=name), surface.do("logs_workspace", workspace_id=name)]
        surface.do("export_workspace", workspace_id=name, path="inside", output=str(tmp_path / "inside"))
        surface.do("stop_workspace", workspace_id=name)
        disk = surface.do("export_workspace_disk", workspace_id=name, output=str(tmp_path / "disk"))
        assert disk["masked_count"] > 0
        told.append(surface.do("start_workspace", workspace_id=name))
        command = ["sh", "-c", 'printf %s "$FILED" | wc -c; mount | grep -c " /run/.*tmpfs\\| /run type tmpfs"']
        again = surface.do("exec_workspace", workspace_id=name, command=command, secret_env=["FILED"])
        assert again["stdout"].splitlines()[0] == str(len(value.encode()) + 6)
        told += [again, surface.do("summarize_workspace", workspace_id=name)]
        forms = [value.encode(), base64.b64encode(value.encode()).rstrip(b"="), quote(value, safe="").encode()]
        forms.append(value.encode().hex().encode())
        answers = json.dumps(told, ensure_ascii=False).encode()
        state = Path(environ["PYRO_STATE_DIR"])
        kept = state / "workspaces" / name / "secrets"
        outside = [path for path in state.rglob("*") if path.is_file() and not path.is_relative_to(kept)]
        outside = [path for path in outside if not path.is_relative_to(state / "machines")]
        for form in forms:
            assert form not in answers
            assert [path for path in outside if form in path.read_bytes()] == []
            assert form not in (tmp_path / "inside").read_bytes()
            assert not _holds(tmp_path / "disk", form)
            assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if form in _words(path)] == []
    finally:
        surface.do("delete_workspace", workspace_id=name)


def _holds(path: Path, text: bytes) -> bool:
    """Whether the sparse file has it."""
    with path.open("rb") as file:
        return any(text in os.pread(file.fileno(), length, offset) for offset, length in extents(file.fileno()))


def _words(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
