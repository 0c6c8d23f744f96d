"""One command in a machine of its own, with input, a time limit and live output: `python examples/python_run.py`."""

import sys

from pyro_mcp import Pyro

COUNT = "sort | uniq -c | sort -rn; echo sorted >&2"


def show(tag: int, data: bytes) -> None:
    """Called with each piece of output as it comes: 1 is stdout, 2 stderr."""
    (sys.stdout if tag == 1 else sys.stderr).write(data.decode())


with Pyro(on_output=show) as pyro:
    counted = pyro.run_in_vm("debian:12", command=COUNT, stdin=b"pear\nfig\npear\n", timeout_seconds=30)
    print(f"exit code {counted.exit_code} after {counted.duration_ms} ms, isolation: {counted.isolation}")

    # A command that fails is a result. What could not be run at all raises a PyroError.
    failed = pyro.run_in_vm("debian:12", command=["sh", "-c", "exit 3"])
    assert failed.exit_code == 3
    assert failed.cleanup.deleted
