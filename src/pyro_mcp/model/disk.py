"""Disk results: a stopped workspace's disk as a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.result import Result


@dataclass(frozen=True, kw_only=True)
class DiskExport(Result):
    """A raw image at `output_path`. It is sparse: `size_bytes` long, with `bytes_written` of data.

    It holds what was written in the guest: `/workspace/upper` is what differs from the seed, `/upper` what differs from
    the environment. `masked_count` times the bytes of a secret were overwritten in it with `*`. Never mount it
    where its maker is not trusted.
    """

    workspace_id: str
    output_path: str
    disk_format: Literal["ext4"]
    size_bytes: int
    bytes_written: int
    execution_mode: ExecutionMode
    isolation: Isolation
    masked_count: int = 0
