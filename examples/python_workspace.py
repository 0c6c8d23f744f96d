"""A workspace that is seeded, changed, reviewed, taken home and reset: `python examples/python_workspace.py`."""

import tempfile
from pathlib import Path

from pyro_mcp import Pyro

PATCH = """\
--- a/words.txt
+++ b/words.txt
@@ -1,2 +1,2 @@
 pear
-fig
+quince
"""

with Pyro() as pyro, tempfile.TemporaryDirectory() as here:
    seed = Path(here, "seed")
    seed.mkdir()
    (seed / "words.txt").write_text("pear\nfig\n")
    workspace = pyro.create_workspace(environment="debian:12", seed_path=str(seed), labels={"example": "workspace"})
    try:
        name = workspace.workspace_id
        pyro.write_workspace_file(name, "sort.sh", text="sort words.txt > sorted.txt\n")
        pyro.apply_workspace_patch(name, patch=PATCH)
        pyro.create_snapshot(name, "patched")
        assert pyro.exec_workspace(name, command="sh sort.sh").exit_code == 0
        print(pyro.read_workspace_file(name, "sorted.txt").content, end="")

        changes = pyro.diff_workspace(name)
        print(f"{changes.summary.added} added, {changes.summary.modified} modified; the seed is as it was:")
        print((seed / "words.txt").read_text(), end="")

        pyro.export_workspace(name, "sorted.txt", output=str(Path(here, "home.txt")))
        assert Path(here, "home.txt").read_text() == "pear\nquince\n"

        # A new machine, with the files of the snapshot: what came after it is gone.
        pyro.reset_workspace(name, snapshot="patched")
        print(sorted(entry.path for entry in pyro.list_workspace_files(name).entries))
    finally:
        pyro.delete_workspace(workspace.workspace_id)
