"""A terminal that keeps its state between calls: `python examples/python_shell.py`."""

from pyro_mcp import Pyro


def see(pyro: Pyro, workspace_id: str, shell_id: str, cursor: int) -> tuple[str, int]:
    """What has come since `cursor`, as a person would see it, once the shell has been quiet for half a second."""
    read = pyro.read_shell(workspace_id, shell_id, cursor=cursor, plain=True, wait_for_idle_ms=500)
    return read.output, read.next_cursor


with Pyro() as pyro:
    workspace = pyro.create_workspace(environment="debian:12")
    try:
        name = workspace.workspace_id
        shell = pyro.open_shell(name, cols=100, rows=30).shell_id
        _, cursor = see(pyro, name, shell, 0)
        for line in ("mkdir -p src && cd src", "export FRUIT=quince", "echo $FRUIT in $PWD"):
            pyro.write_shell(name, shell, input=line)
            text, cursor = see(pyro, name, shell, cursor)
            print(text)

        # What runs there is interrupted like in any terminal.
        pyro.write_shell(name, shell, input="sleep 1000; echo interrupted")
        pyro.signal_shell(name, shell, signal_name="INT")
        pyro.write_shell(name, shell, input="exit 7")
        text, cursor = see(pyro, name, shell, cursor)
        print(f"closed: {pyro.close_shell(name, shell).closed}")
    finally:
        pyro.delete_workspace(workspace.workspace_id)
