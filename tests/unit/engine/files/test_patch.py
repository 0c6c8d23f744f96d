"""`patch apply` on the real agent: all or nothing, whatever stands in the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from agentlab import Lab

from pyro_mcp.engine.files import patch as patching
from pyro_mcp.engine.files.patch import apply_patch
from pyro_mcp.errors import Conflict, InvalidArgument, MachineFailed
from pyro_mcp.model.patch import PatchResult
from pyro_mcp.trees.patch import PatchOperation

EDIT = """\
--- a/src/app.py
+++ b/src/app.py
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
"""
NEW = """\
diff --git a/bin/new.sh b/bin/new.sh
new file mode 100755
--- /dev/null
+++ b/bin/new.sh
@@ -0,0 +1,2 @@
+#!/bin/sh
+exit 0
"""
DELETE = """\
--- a/old/only.txt
+++ /dev/null
@@ -1 +0,0 @@
-bye
"""
RENAME = """\
diff --git a/lib/a.py b/pkg/b.py
similarity index 60%
rename from lib/a.py
rename to pkg/b.py
--- a/lib/a.py
+++ b/pkg/b.py
@@ -1,2 +1,2 @@
 x = 1
-y = 2
+y = 3
"""
MODE = """\
diff --git a/run b/run
old mode 100644
new mode 100755
"""


@pytest.fixture
def seeded(lab: Lab) -> Lab:
    lab.put("src/app.py", "one\ntwo\nthree\n")
    lab.put("old/only.txt", "bye\n")
    lab.put("lib/a.py", "x = 1\ny = 2\n", 0o600)
    lab.put("run", "#!/bin/sh\n", 0o644)
    return lab


def told(result: PatchResult) -> dict[str, str]:
    return {entry.path: entry.status for entry in result.entries}


def test_every_kind_of_change_at_once(seeded: Lab) -> None:
    result = apply_patch(seeded.call, seeded.place, EDIT + NEW + DELETE + RENAME + MODE)
    assert told(result) == {
        "bin/new.sh": "added",
        "lib/a.py": "deleted",
        "old/only.txt": "deleted",
        "pkg/b.py": "added",
        "run": "modified",
        "src/app.py": "modified",
    }
    assert result.changed
    assert (result.summary.total, result.summary.added, result.summary.modified, result.summary.deleted) == (6, 2, 2, 2)
    root = seeded.root
    assert (root / "src/app.py").read_text() == "one\nTWO\nthree\n"
    assert (root / "bin/new.sh").stat().st_mode & 0o777 == 0o755
    assert (root / "pkg/b.py").read_text() == "x = 1\ny = 3\n"
    assert (root / "pkg/b.py").stat().st_mode & 0o777 == 0o600
    assert (root / "run").stat().st_mode & 0o777 == 0o755
    assert not (root / "old").exists()
    assert not (root / "lib").exists()
    assert [kind for kind, _ in seeded.notes] == ["patch_apply"]
    assert seeded.notes[0][1]["total"] == 6


@pytest.mark.parametrize(
    "bad",
    [
        "--- a/src/app.py\n+++ b/src/app.py\n@@ -1 +1 @@\n-nothing like it\n+x\n",
        "--- a/missing\n+++ b/missing\n@@ -1 +1 @@\n-x\n+y\n",
        "--- a/../out\n+++ b/../out\n@@ -1 +1 @@\n-x\n+y\n",
        "--- /dev/null\n+++ b/.git/hooks/pre-commit\n@@ -0,0 +1 @@\n+x\n",
        "--- /dev/null\n+++ b/link/x\n@@ -0,0 +1 @@\n+x\n",
        "--- /dev/null\n+++ b/run/below\n@@ -0,0 +1 @@\n+x\n",
        "--- /dev/null\n+++ b/dir\n@@ -0,0 +1 @@\n+x\n",
    ],
)
def test_one_bad_file_leaves_everything_as_it_was(seeded: Lab, bad: str) -> None:
    (seeded.root / "link").symlink_to("/tmp")
    (seeded.root / "dir").mkdir()
    before = seeded.snapshot()
    with pytest.raises((InvalidArgument, Conflict)):
        apply_patch(seeded.call, seeded.place, NEW + RENAME + bad)
    assert seeded.snapshot() == before
    assert seeded.notes == []


def test_the_failing_hunk_says_what_stands_there(seeded: Lab) -> None:
    patch = "--- a/src/app.py\n+++ b/src/app.py\n@@ -2 +2 @@\n-deux\n+TWO\n"
    with pytest.raises(InvalidArgument, match=r"src/app\.py.*hunk 1"):
        apply_patch(seeded.call, seeded.place, patch)


def test_a_change_behind_our_back_is_a_conflict(seeded: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(*arguments: object) -> object:
        steps = plan(*arguments)  # type: ignore[arg-type]
        seeded.put("src/app.py", "one\ntwo\nthree, by somebody else\n")
        return steps

    plan = patching.plan
    monkeypatch.setattr(patching, "plan", planned)
    with pytest.raises(Conflict, match=r"app\.py"):
        apply_patch(seeded.call, seeded.place, NEW + EDIT)
    assert not (seeded.root / "bin").exists()
    assert "somebody else" in (seeded.root / "src/app.py").read_text()


def test_what_is_too_large_to_patch_is_told(seeded: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "MAX_FILE", 4)
    with pytest.raises(InvalidArgument, match="at most 4 per file"):
        apply_patch(seeded.call, seeded.place, EDIT)


@pytest.mark.parametrize("count", [0, 1, 5, 15])
def test_a_node_that_goes_away_amid_a_patch_leaves_all_or_nothing(
    seeded: Lab, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    before = seeded.snapshot()
    whole = patching._contents

    def cut(steps: list[PatchOperation]) -> Iterator[bytes]:
        for number, piece in enumerate(whole(steps)):
            if number == count:
                seeded.place.machine.channel.close("the node died")
            yield piece

    monkeypatch.setattr(patching, "_contents", cut)
    many = "".join(NEW.replace("bin/new.sh", f"n{number}/f") for number in range(20))
    with pytest.raises(MachineFailed, match="is gone"):
        apply_patch(seeded.call, seeded.place, EDIT + many)
    seeded.assert_becomes(before)
    assert seeded.notes == []
