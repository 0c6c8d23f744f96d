"""overlay_pack: what the overlay has changed below a directory, for a host that has the rest itself."""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import Any

from pyro_mcp.guest import disks
from pyro_mcp.guest.changes import Layers
from pyro_mcp.guest.errors import AgentError
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.pack import Packer
from pyro_mcp.guest.paths import Tree, absolute, failure, relative
from pyro_mcp.protocol.channel import Stream

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REDIRECT = "trusted.overlay.redirect"
_INDEX = b"work/index"


def overlay_pack(tree: Tree, layers: Layers, stream: Stream) -> dict[str, Any]:
    """path → EVENT as of tree_pack, and `hidden`: whether nothing of the seed shows below; then the entries of the
    upper directory there on DATA 1, with whiteouts and opaque marks; counts as of tree_pack.

    Answers `unsupported` where the layers alone do not tell: for what is no directory, below or above one that was
    renamed, and once a hard link of the seed was written to. `tree_pack` always does.
    """
    parts = relative("export", stream.params.get("path", "."))
    flow = Flow(stream)
    try:
        with tree.existing(parts) as place:
            if not place.is_directory() or _indexed():
                raise _unsupported()
            status, path, below = place.stat(), os.fsdecode(place.path), place.parts
        hides = partial(_hides, layers)
        upper, hidden = _upper(layers, below)
        try:
            head = {"path": path, "artifact_type": "directory", "hidden": hidden}
            flow.event({**head, "mode": stat.S_IMODE(status.st_mode), "mtime_ns": status.st_mtime_ns})
            packer = Packer(
                flow.send,
                flow.check,
                special=lambda about: "whiteout" if layers.whiteout(about) else None,
                opaque=hides,
            )
            if upper is not None:
                packer.directory(upper)
            return packer.result()
        finally:
            if upper is not None:
                os.close(upper)
    except OSError as error:
        raise failure("export", absolute(parts), error) from None
    finally:
        flow.close()


def _upper(layers: Layers, parts: list[bytes]) -> tuple[int | None, bool]:
    """The upper directory of that path, None when nothing was changed there, and whether it or one above it hides the
    seed."""
    here = layers.new()
    try:
        hidden = _hides(layers, here)
        for part in parts:
            try:
                deeper = os.open(part, _DIRECTORY, dir_fd=here)
            except FileNotFoundError:
                os.close(here)
                return None, hidden
            os.close(here)
            here = deeper
            hidden = _hides(layers, here) or hidden
    except BaseException:
        os.close(here)
        raise
    return here, hidden


def _hides(layers: Layers, fd: int) -> bool:
    if _REDIRECT in os.listxattr(f"/proc/self/fd/{fd}"):
        raise _unsupported()
    return layers.opaque(fd)


def _indexed() -> bool:
    """Whether the overlay keeps apart what was written to hard links of the seed."""
    try:
        index = os.open(_INDEX, _DIRECTORY, dir_fd=disks.workspace_directory())
    except FileNotFoundError:
        return False
    try:
        return bool(os.listdir(index))
    finally:
        os.close(index)


def _unsupported() -> AgentError:
    return AgentError("unsupported", "cannot export by layers: they do not tell all", "Export the tree as a whole.")
