"""The smallest program that runs a command in a machine of its own: `python examples/hello.py`."""

from pyro_mcp import Pyro

with Pyro() as pyro:
    result = pyro.run_in_vm("debian:12", command=["git", "--version"])
    print(result.stdout, end="")
