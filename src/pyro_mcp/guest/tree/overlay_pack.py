"""overlay_pack: what the overlay has changed below a directory, for a host that has the rest itself."""

from __future__ import annotations

import os
import stat
from typing import Any

from pyro_mcp.guest.errors import AgentError
from pyro_mcp.guest.flow import Flow
from pyro_mcp.guest.tree.layers import Layers, Upper
from pyro_mcp.guest.tree.mounts import require_none
from pyro_mcp.guest.tree.pack import Packer
from pyro_mcp.guest.tree.paths import Tree, absolute, failure, relative
from pyro_mcp.protocol.channel import Stream


def overlay_pack(tree: Tree, layers: Layers, stream: Stream) -> dict[str, Any]:
    """path → EVENT as of tree_pack, and `lower`: which directory of the seed shows below, null for none; then what
    differs from that on DATA 1, with the overlay's marks; counts as of tree_pack.

    Answers `unsupported` for what is no directory, or when everything may differ: `tree_pack` packs all.
    """
    parts = relative("export", stream.params.get("path", "."))
    flow = Flow(stream)
    try:
        with tree.existing(parts) as target:
            require_none("export", tree, target.parts)
            upper = _upper(layers, target.parts) if target.is_directory() else None
            if upper is None:
                cannot = "cannot export by layers: they do not record every change"
                raise AgentError("unsupported", cannot, "Export the tree as a whole.")
            with upper:
                status = target.stat()
                lower = None if upper.lower is None else os.fsdecode(upper.lower)
                head = {"path": os.fsdecode(target.path), "artifact_type": "directory", "lower": lower}
                flow.event({**head, "mode": stat.S_IMODE(status.st_mode), "mtime_ns": status.st_mtime_ns})
                packer = Packer(flow.send, flow.check)
                packer.directory(target.fd, upper.again())
                return packer.result()
    except OSError as error:
        raise failure("export", absolute(parts), error) from None
    finally:
        flow.close()


def _upper(layers: Layers, parts: list[bytes]) -> Upper | None:
    """What may differ below that path; None when everything may."""
    here = layers.upper()
    for part in parts:
        if here is None:
            return None
        with here:
            here = here.enter(part)
    return here
