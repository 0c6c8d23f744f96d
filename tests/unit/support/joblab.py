"""Nodes that die while a command goes on by itself.

`python joblab.py STATE_DIR N [STEP]` is a node that begins the command, or takes it up if there is one, and kills
itself at the N-th step of its output and end, or at the N-th that is called STEP. It prints the step's name, or `done`
when the command's end was recorded before.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fleetlab import CallRecorder, engine_at

from pyro_mcp.api.workspace import create_workspace
from pyro_mcp.engine.commands import journal, ring
from pyro_mcp.engine.engine import Engine
from pyro_mcp.node.adopt import reconcile

SECRET = "horse battery horse"
"""Ends as it begins: where one stands, another may begin in it."""
HEAD_BYTES, TAIL_BYTES = 600_000, 200_000
STEPS = {"output journalled", "output marked", "command ran", "journal finished", "outcome recorded"}
COMMAND = "dd if=out bs=14990 status=none & dd if=err bs=3970 status=none >&2; wait; exit 7"


def small_journals() -> None:
    journal.HEAD_BYTES, ring.TAIL_BYTES = HEAD_BYTES, TAIL_BYTES


def begin(engine: Engine) -> None:
    """Run the command over the files `out` and `err`, which stand in the state directory."""
    home = engine.settings.state_dir
    options = {"mem_mib": 128, "allow_host_compat": True, "secrets": {"PHRASE": SECRET}, "seed_path": str(home / "in")}
    call = CallRecorder(engine).call
    create_workspace.function(call, environment="debian:12", name="w", **options)
    engine.commands.exec(call, "w", command=COMMAND, timeout_seconds=60, wait_seconds=0, stdin=None)


def finish(engine: Engine) -> None:
    """Wait for the end of what runs."""
    while engine.commands.running(engine.registry.find("w").workspace_id):
        engine.commands.join()


def main(argv: list[str]) -> int:
    countdown, steps = int(argv[1]), set(argv[2:]) or STEPS

    def faults(step: str) -> None:
        nonlocal countdown
        countdown -= step in steps
        if countdown == 0:
            print(step, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    small_journals()
    engine = engine_at(Path(argv[0]), faults=faults)
    reconcile(engine)
    if not engine.registry.rows():
        begin(engine)
    finish(engine)
    print("done", flush=True)
    engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
