"""Work on a workspace's files over SDK, CLI and MCP, in real guests and on the host: what one does, all do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from short import promised

pytestmark = pytest.mark.guest

PATCH = """\
diff --git a/base.txt b/base.txt
--- a/base.txt
+++ b/base.txt
@@ -1,3 +1,2 @@
 one
-two
 three
diff --git a/src/app.py b/src/app.py
--- a/src/app.py
+++ b/src/app.py
@@ -1,2 +1,2 @@
 import lib
-print(lib.value)
+print(lib.value + 1)
diff --git a/bin/run b/bin/run
new file mode 100755
--- /dev/null
+++ b/bin/run
@@ -0,0 +1,2 @@
+#!/bin/sh
+exec python3 src/app.py
"""
EVERY = {"workspace_id", "execution_mode", "isolation"}


class Desk:
    """One workspace, seen through one surface."""

    def __init__(self, surface: Any, workspace_id: str, seed: Path) -> None:
        self.workspace_id = workspace_id
        self.seed = seed
        self._surface = surface

    def do(self, verb: str, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._surface.do(verb, workspace_id=self.workspace_id, **params)
        assert answer["workspace_id"] == self.workspace_id
        return answer


@pytest.fixture(scope="module")
def desk(anywhere: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A workspace with a seed, into which a small project was pushed."""
    seed = tmp_path_factory.mktemp("seed")
    (seed / "base.txt").write_text("one\ntwo\nthree\n")
    options: dict[str, Any] = {"allow_host_compat": True} if anywhere.hosted else {}
    made = anywhere.do(
        "create_workspace", environment="debian:12", mem_mib=512, seed_path=os.path.relpath(seed), **options
    )
    desk = Desk(anywhere, made["workspace_id"], seed)
    source = tmp_path_factory.mktemp("source")
    (source / "lib.py").write_text("value = 41\n")
    (source / "app.py").write_text("import lib\nprint(lib.value)\n")
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    pushed = desk.do("push_workspace_sync", source_path=os.path.relpath(source), dest="src")
    assert promised(pushed) >= EVERY | {"workspace_sync"}
    done = pushed["workspace_sync"]
    assert (done["mode"], done["source_path"], done["destination"]) == ("directory", str(source), "/workspace/src")
    assert (done["entry_count"], done["bytes_written"], done["skipped_count"]) == (3, 39, 1)
    yield desk
    anywhere.do("delete_workspace", workspace_id=desk.workspace_id)


def test_files_are_listed_read_written_and_searched(desk: Desk) -> None:
    listed = desk.do("list_workspace_files", path="src")
    assert promised(listed) >= EVERY | {"path", "recursive", "entries"}
    assert {entry["path"]: (entry["artifact_type"], entry["link_target"]) for entry in listed["entries"]} == {
        "/workspace/src/app.py": ("file", None),
        "/workspace/src/lib.py": ("file", None),
        "/workspace/src/link": ("symlink", "/etc/passwd"),
    }
    found = desk.do("list_workspace_files", pattern="l*.py")
    assert [entry["path"] for entry in found["entries"]] == ["/workspace/src/lib.py"]

    text = 'é — "quoted"\n\ttab\n'
    wrote = desk.do("write_workspace_file", path="notes/ü.txt", text=text)
    assert promised(wrote) >= EVERY | {"path", "size_bytes", "bytes_written"}
    assert wrote["bytes_written"] == len(text.encode())
    read = desk.do("read_workspace_file", path="/workspace/notes/ü.txt")
    assert promised(read) >= EVERY | {"path", "size_bytes", "content", "truncated"}
    assert (read["content"], read["truncated"], read["sha256"]) == (text, False, wrote["sha256"])

    hits = desk.do("search_workspace_files", pattern=r"^value = \d+", glob="*.py")
    assert [(hit["path"], hit["line"], hit["text"]) for hit in hits["matches"]] == [
        ("/workspace/src/lib.py", 1, "value = 41")
    ]


def test_a_writer_who_knows_an_old_file_is_refused(desk: Desk) -> None:
    first = desk.do("write_workspace_file", path="shared", text="one", expected_sha256="absent")
    desk.do("write_workspace_file", path="shared", text="two", expected_sha256=first["sha256"])
    with pytest.raises(Exception, match="not the expected") as caught:
        desk.do("write_workspace_file", path="shared", text="three", expected_sha256=first["sha256"])
    assert caught.value.code == "conflict"  # type: ignore[attr-defined]


def test_a_patch_is_applied_compared_and_taken_home(desk: Desk, tmp_path: Path) -> None:
    patched = desk.do("apply_workspace_patch", patch=PATCH)
    assert promised(patched) >= EVERY | {"changed", "summary", "entries", "patch"}
    assert patched["changed"]
    counts = {"total": 3, "added": 1, "modified": 2, "deleted": 0}
    assert {name: patched["summary"][name] for name in counts} == counts
    wrong = PATCH[PATCH.index("diff --git a/src") :].replace("import lib", "import nothing").replace("bin/run", "bin/n")
    with pytest.raises(Exception, match=r"src/app\.py.*hunk 1") as caught:
        desk.do("apply_workspace_patch", patch=wrong)
    assert caught.value.code == "invalid_argument"  # type: ignore[attr-defined]

    changes = desk.do("diff_workspace")
    assert promised(changes) >= EVERY | {"changed", "summary", "entries", "patch"}
    status = {entry["path"]: entry["status"] for entry in changes["entries"]}
    assert status["bin/run"] == status["src/app.py"] == "added"
    assert "bin/n" not in status
    assert status["base.txt"] == "modified"
    shutil.copytree(desk.seed, tmp_path / "copy")
    subprocess.run(["git", "apply", "-"], input=changes["patch"].encode(), cwd=tmp_path / "copy", check=True)

    exported = desk.do("export_workspace", path=".", output=os.path.relpath(tmp_path / "out"))
    export = {"workspace_path", "output_path", "artifact_type", "entry_count", "bytes_written"}
    assert promised(exported) >= EVERY | export
    assert (exported["output_path"], exported["artifact_type"]) == (str(tmp_path / "out"), "directory")
    assert [one["path"] for one in exported["skipped"]] == ["src/link"]
    (tmp_path / "copy" / "src" / "link").unlink()
    subprocess.run(["diff", "-r", str(tmp_path / "copy"), str(tmp_path / "out")], check=True)
    assert (tmp_path / "out" / "bin" / "run").stat().st_mode & 0o777 == 0o755
    with pytest.raises(Exception, match="exists") as again:
        desk.do("export_workspace", path=".", output=str(tmp_path / "out"))
    assert again.value.code == "conflict"  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["../etc/passwd", "/etc/passwd", "src/link"])
def test_no_path_leads_out(desk: Desk, path: str) -> None:
    with pytest.raises(Exception, match=r"workspace|'\.\.'") as caught:
        desk.do("read_workspace_file", path=path)
    assert caught.value.code == "invalid_argument"  # type: ignore[attr-defined]


def test_a_file_is_edited_by_what_stands_in_it(desk: Desk, tmp_path: Path) -> None:
    desk.do("write_workspace_file", path="edit.txt", text="one\r\ntwo\r\n")
    done = desk.do("edit_workspace_file", path="edit.txt", old_string="one\ntwo", new_string="1\n2")
    assert promised(done) >= EVERY | {"path", "replacements", "size_bytes", "sha256", "first_changed_line"}
    assert (done["replacements"], done["first_changed_line"], done["line_ends"]) == (1, 1, "crlf")
    assert desk.do("read_workspace_file", path="edit.txt")["content"] == "1\r\n2\r\n"
    with pytest.raises(Exception, match="is not in it: ") as caught:
        desk.do("edit_workspace_file", path="edit.txt", old_string="three", new_string="3")
    assert caught.value.code == "invalid_argument"  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="not the expected") as caught:
        desk.do("edit_workspace_file", path="edit.txt", old_string="1", new_string="x", expected_sha256="0" * 64)
    assert caught.value.code == "conflict"  # type: ignore[attr-defined]


def test_what_git_keeps_and_what_it_ignores_is_counted(desk: Desk, tmp_path: Path) -> None:
    commit = "git init -q . && git add -A && git -c user.name=a -c user.email=a@b commit -qm x"
    desk.do("exec_workspace", command=["sh", "-ec", f"mkdir repo && cd repo && echo x > f && {commit}"])
    desk.do("write_workspace_file", path="repo/.gitignore", text="*.log\n")
    desk.do("exec_workspace", command=["sh", "-ec", "cd repo && mkdir logs && touch a.log logs/b.log"])
    changes = desk.do("diff_workspace", paths=["repo"])
    assert [entry["path"] for entry in changes["entries"]] == ["repo/.git", "repo/.gitignore", "repo/f"]
    assert changes["ignored_count"] == 2
    assert changes["entries"][0]["file_count"] > 5
    shutil.copytree(desk.seed, tmp_path / "copy")
    subprocess.run(["git", "apply", "-"], input=changes["patch"].encode(), cwd=tmp_path / "copy", check=True)
    assert (tmp_path / "copy/repo/f").read_text() == "x\n"
    stat = desk.do("diff_workspace", paths=["repo"], exclude=["*.log", ".git", ".gitignore"], ignored=True, stat=True)
    assert [(entry["path"], entry["added_lines"]) for entry in stat["entries"]] == [("repo/f", 1)]
    assert not stat["patch"]
