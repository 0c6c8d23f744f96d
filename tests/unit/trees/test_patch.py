"""A patch is read as it was meant, applied where it fits, and refused as a whole otherwise (checks 11, 12)."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.trees.patch import PatchOperation, Present, Read, plan, statuses

FILES: dict[str, bytes] = {
    "app.py": b"one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n",
    "crlf.txt": b"one\r\ntwo\r\nthree\r\n",
    "bare.txt": b"one\ntwo",
    "dir/deep.txt": b"x\n",
    "with space.txt": b"x\n",
    "tab\there": b"x\n",
    "gr\u00fcn": b"x\n",
    "empty": b"",
    "b/inner": b"x\n",
}


def reader(files: dict[str, bytes]) -> Read:
    return lambda path: Present(files[path]) if path in files else None


def applied(patch: str | bytes, files: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """The files after the operations, in the order given."""
    tree = dict(FILES if files is None else files)
    for step in plan(patch, reader(tree)):
        perform(step, tree)
    return tree


def perform(step: PatchOperation, tree: dict[str, bytes]) -> None:
    assert (step.before_sha256 is None) == (step.path not in tree)
    if step.kind == "delete":
        del tree[step.path]
    elif step.kind == "write":
        assert step.content is not None
        tree[step.path] = step.content
    elif step.kind == "rename":
        assert step.to is not None
        assert step.to not in tree
        tree[step.to] = tree.pop(step.path)


EDIT = "@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n"
CHANGED = FILES["app.py"].replace(b"two", b"TWO")


@pytest.mark.parametrize(
    "head",
    [
        "diff --git a/app.py b/app.py\nindex 1..2 100644\n--- a/app.py\n+++ b/app.py\n",
        "--- a/app.py\n+++ b/app.py\n",
        "--- app.py\n+++ app.py\n",
        "--- /workspace/app.py\n+++ /workspace/app.py\n",
        "--- a//workspace/app.py\n+++ b//workspace/app.py\n",
        "--- ./app.py\n+++ ./app.py\n",
        "--- app.py\t2024-01-01 00:00:00.0 +0000\n+++ app.py\t2024-01-01 00:00:01.0 +0000\n",
        "--- app.py.orig\n+++ app.py\n",
        "--- app.py\n+++ app.py.new\n",
        "--- a/app.py\n+++ a/app.py\n",
        "diff --git app.py app.py\n--- app.py\n+++ app.py\n",
        "Here is the patch:\n\n```diff\n--- a/app.py\n+++ b/app.py\n",
        "From 123 Mon Sep 17\nSubject: [PATCH] x\n---\n app.py | 2 +-\n\ndiff --git a/app.py b/app.py\n--- a/app.py\n"
        "+++ b/app.py\n",
    ],
)
def test_headers_of_every_habit_name_the_file(head: str) -> None:
    assert applied(head + EDIT)["app.py"] == CHANGED
    assert applied((head + EDIT).replace("\n", "\r\n"))["app.py"] == CHANGED


@pytest.mark.parametrize(
    "hunk",
    [
        "@@ -1,3 +1,3 @@ def f():\n one\n-two\n+TWO\n three\n",
        "@@ -1,30 +1,2 @@\n one\n-two\n+TWO\n three\n",
        "@@ -1,1 +1,1 @@\n one\n-two\n+TWO\n three\n",
        "@@ -40,3 +44,3 @@\n one\n-two\n+TWO\n three\n",
        "@@ @@\n one\n-two\n+TWO\n three\n",
        "@@\n one\n-two\n+TWO\n three\n",
        "@@ ... @@\n one\n-two\n+TWO\n three\n```\nThat was it. \n- a list\n",
        "@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n-- \n2.39.5\n\n",
        "@@ -1,3 +1,3 @@\n one  \n-two \n+TWO\n three\t\n",
        "@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n\nAnd then some words.\n",
        "@@ -2 +2 @@\n-two\n+TWO\n",
        "@@ -2 +1,0 @@\n-two\n@@ -2,0 +2 @@\n+TWO\n",
    ],
)
def test_hunks_of_every_habit_find_their_place(hunk: str) -> None:
    assert applied("--- a/app.py\n+++ b/app.py\n" + hunk)["app.py"] == CHANGED


def test_blank_context_lines_may_have_lost_their_space() -> None:
    files = {"f": b"a\n\nb\n\nc\n"}
    assert applied("--- a/f\n+++ b/f\n@@ -1,5 +1,5 @@\n a\n\n-b\n+B\n\n c\n", files)["f"] == b"a\n\nB\n\nc\n"
    assert applied("--- a/f\n+++ b/f\n@@ -9,1 +1,5 @@\n a\n\n-b\n+B\n\n c\n\n\n", files)["f"] == b"a\n\nB\n\nc\n"


def test_hunks_drift_with_the_file() -> None:
    before = b"".join(b"line %d\n" % number for number in range(100))
    patch = "--- a/f\n+++ b/f\n@@ -11,2 +11,3 @@\n line 10\n+new\n line 11\n@@ -51,2 +52,1 @@\n line 50\n-line 51\n"
    grown = b"intro\n" * 7 + before
    expected = grown.replace(b"line 11\n", b"new\nline 11\n").replace(b"line 51\n", b"")
    assert applied(patch, {"f": grown})["f"] == expected


def test_of_two_places_that_fit_the_nearest_is_taken() -> None:
    block = b"begin\nx\nend\n"
    patch = "--- a/f\n+++ b/f\n@@ -7,3 +7,3 @@\n begin\n-x\n+y\n end\n"
    assert applied(patch, {"f": block * 4})["f"] == block * 2 + b"begin\ny\nend\n" + block


def test_line_ends_of_the_file_win() -> None:
    patch = "--- a/crlf.txt\n+++ b/crlf.txt\n@@ -1,3 +1,4 @@\n one\n-two\n+TWO\n+more\n three\n"
    assert applied(patch)["crlf.txt"] == b"one\r\nTWO\r\nmore\r\nthree\r\n"
    exact = "--- a/crlf.txt\n+++ b/crlf.txt\n@@ -1,2 +1,2 @@\n one\r\n-two\r\n+two\n"
    assert applied(exact)["crlf.txt"] == b"one\r\ntwo\nthree\r\n"


@pytest.mark.parametrize(
    ("hunk", "result"),
    [
        (" one\n-two\n\\ No newline at end of file\n+TWO\n\\ No newline at end of file\n", b"one\nTWO"),
        (" one\n-two\n\\ No newline at end of file\n+two\n", b"one\ntwo\n"),
        (" one\n two\n+three\n", b"one\ntwo\nthree\n"),
        (" one\n-two\n+TWO\n", b"one\nTWO\n"),
        ("-one\n+ONE\n two\n", b"ONE\ntwo"),
    ],
)
def test_a_missing_last_newline(hunk: str, result: bytes) -> None:
    assert applied(f"--- a/bare.txt\n+++ b/bare.txt\n@@ -1,2 +1,2 @@\n{hunk}")["bare.txt"] == result


@pytest.mark.parametrize(
    ("patch", "path", "result"),
    [
        ("--- a/bare.txt\n+++ b/bare.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+TWO", "bare.txt", b"one\nTWO\n"),
        ("--- a/crlf.txt\r\n+++ b/crlf.txt\r\n@@ -3 +3 @@\r\n-three\r\n+3", "crlf.txt", b"one\r\ntwo\r\n3\r\n"),
        ("--- /dev/null\n+++ b/n\n@@ -0,0 +1,2 @@\n+a\n+b", "n", b"a\nb\n"),
        ("--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+a\n\\ No newline at end of file", "n", b"a"),
    ],
)
def test_a_patch_that_lost_its_last_line_feed_takes_none_from_the_file(patch: str, path: str, result: bytes) -> None:
    assert applied(patch)[path] == result


def test_hunks_may_stand_in_any_order() -> None:
    later = "@@ -8,3 +8,4 @@\n eight\n-nine\n+NINE\n+and a half\n ten\n"
    expected = CHANGED.replace(b"nine", b"NINE\nand a half")
    assert applied("--- a/app.py\n+++ b/app.py\n" + later + EDIT)["app.py"] == expected
    wrong = "--- a/app.py\n+++ b/app.py\n" + EDIT.replace("-1,3", "-70,3") + later
    assert applied(wrong)["app.py"] == expected


def test_new_deleted_renamed_and_mode() -> None:
    patch = (
        "diff --git a/new.py b/new.py\nnew file mode 100755\nindex 0000000..1\n"
        "--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+hi\n"
        "diff --git a/nothing b/nothing\nnew file mode 100644\n"
        "diff --git a/dir/deep.txt b/dir/deep.txt\ndeleted file mode 100644\n"
        "--- a/dir/deep.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        "diff --git a/empty b/empty\ndeleted file mode 100644\n"
        "diff --git a/app.py b/lib/app.py\nsimilarity index 90%\nrename from app.py\nrename to lib/app.py\n"
        f"--- a/app.py\n+++ b/lib/app.py\n{EDIT}"
        "diff --git a/bare.txt b/bare.txt\nold mode 100644\nnew mode 100755\n"
        'diff --git "a/gr\\303\\274n" "b/gr\\303\\274n"\nold mode 100755\nnew mode 100644\n'
    )
    planned = plan(patch, reader(FILES))
    steps = {(step.kind, step.path): step for step in planned}
    assert set(steps) == {
        ("write", "new.py"), ("write", "nothing"), ("delete", "dir/deep.txt"), ("delete", "empty"),
        ("rename", "app.py"), ("write", "lib/app.py"), ("mode", "bare.txt"), ("mode", "grün"),
    }  # fmt: skip
    assert steps["write", "new.py"].mode == 0o755
    assert steps["mode", "bare.txt"].mode == 0o755
    assert steps["mode", "grün"].mode == 0o644
    assert steps["rename", "app.py"].to == "lib/app.py"
    assert steps["write", "lib/app.py"].content == CHANGED
    assert applied(patch)["lib/app.py"] == CHANGED
    assert statuses(planned) == {
        "app.py": "deleted", "lib/app.py": "added", "bare.txt": "modified", "dir/deep.txt": "deleted",
        "empty": "deleted", "grün": "modified", "new.py": "added", "nothing": "added",
    }  # fmt: skip


@pytest.mark.parametrize(
    "head", ["--- /dev/null\n+++ b/n\n", "--- n\t1970-01-01 00:00:00.0 +0000\n+++ n\n", "--- a/n\n+++ b/n\n"]
)
def test_plain_headers_make_files(head: str) -> None:
    assert applied(head + "@@ -0,0 +1,2 @@\n+a\n+b\n")["n"] == b"a\nb\n"


@pytest.mark.parametrize("header", ["@@ -1,0 +1,2 @@", "@@ -0,1 +1,2 @@", "@@ -3,0 +3,2 @@", "@@"])
def test_a_new_or_empty_file_is_filled_wherever_its_hunk_says_it_belongs(header: str) -> None:
    assert applied(f"--- /dev/null\n+++ b/n\n{header}\n+a\n+b\n")["n"] == b"a\nb\n"
    assert applied(f"--- a/empty\n+++ b/empty\n{header}\n+a\n+b\n")["empty"] == b"a\nb\n"


@pytest.mark.parametrize(
    "head", ["--- a/dir/deep.txt\n+++ /dev/null\n", "--- dir/deep.txt\n+++ dir/deep.txt\t1970-01-01 00:00:00 +0000\n"]
)
def test_plain_headers_delete_files(head: str) -> None:
    assert "dir/deep.txt" not in applied(head + "@@ -1 +0,0 @@\n-x\n")


def test_two_sections_about_one_file_build_on_each_other() -> None:
    section = "--- a/app.py\n+++ b/app.py\n@@ -1,2 +1,2 @@\n one\n-{}\n+{}\n"
    assert applied(section.format("two", "2") + section.format("2", "II"))["app.py"] == FILES["app.py"].replace(
        b"two", b"II"
    )


def test_names_with_spaces_tabs_and_bytes() -> None:
    edit = "@@ -1 +1 @@\n-x\n+y\n"
    assert applied("--- a/with space.txt\t\n+++ b/with space.txt\t\n" + edit)["with space.txt"] == b"y\n"
    assert applied('--- "a/tab\\there"\n+++ "b/tab\\there"\n' + edit)["tab\there"] == b"y\n"
    made = applied('--- /dev/null\n+++ "b/\\377\\nx"\n@@ -0,0 +1 @@\n+y\n')
    assert made["\udcff\nx"] == b"y\n"
    assert applied("--- a/b/inner\n+++ b/b/inner\n" + edit)["b/inner"] == b"y\n"
    assert applied("--- b/inner\n+++ b/inner\n" + edit)["b/inner"] == b"y\n"


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ("", ["no file header", "Give a unified diff"]),
        ("please change two to TWO", ["no file header"]),
        ("*** Begin Patch\n*** Update File: app.py\n@@\n one\n-two\n+TWO\n*** End Patch\n", ["`--- a/FILE`"]),
        ("@@ -1 +1 @@\n-x\n+y\n", ["line 1", "without a file name"]),
        ("--- a/app.py\n+++ b/app.py\n@@ -1,2 +1,2 @@\n one\ntwo\n", ["line 5"]),
        ("--- a/app.py\n+++ b/app.py\n@@ -1,2 +1,2 @@\n one\n two\nelse:\n+more\n", ["line 7", "no hunk"]),
        ("--- a/missing\n+++ b/missing\n@@ -1 +1 @@\n-x\n+y\n", ["missing", "no such file"]),
        ("--- a/app.py\n+++ b/dir/deep.txt\n@@ -1 +1 @@\n-x\n+y\n", ["name two files"]),
        ("--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-x\n+y\n", ["at once"]),
        ("--- /dev/null\n+++ b/app.py\n@@ -0,0 +1 @@\n+y\n", ["app.py", "exists"]),
        ("--- a/app.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n", ["app.py", "lines would be left"]),
        ("diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+\n", ["x", "a text of 1"]),
        ("diff --git a/app.py b/app.py\nold mode 100644\nnew mode 120000\n", ["app.py", "becomes a link"]),
        ("diff --git a/app.py b/app.py\ndeleted file mode 120000\n", ["app.py", "it is a file"]),
        ("diff --git a/R b/R\nGIT binary patch\nliteral 3\nabc\n", ["to R: binary"]),
        ("diff --git a/s b/R\nrename from s\nrename to R\nGIT binary patch\n", ["to R: binary"]),
        ("--- a/lib/R\n+++ b/lib/R\nBinary files a/lib/R and b/lib/R differ\n", ["to lib/R: binary"]),
        ("diff --git a/x b/x\nnew file mode 160000\n", ["160000"]),
        ("diff --git a/x b/x\nGIT binary patch\nliteral 3\nabc\n", ["binary"]),
        ("diff --git a/x b/x\nBinary files a/x and b/x differ\n", ["binary"]),
        ("diff --git a/app.py b/q\nrename from app.py\nrename to dir/deep.txt\n", ["dir/deep.txt", "exists"]),
        ("diff --git a/app.py b/q\nrename from app.py\n", ["both names"]),
        ("diff --git a/app.py b/q\nrename from app.py\nrename to q\n--- a/empty\n+++ b/q\n", ["different files"]),
        ("diff --git a/app.py b/app.py\n--- a/empty\n+++ b/empty\n@@ -0,0 +1 @@\n+x\n", ["different files"]),
        ("--- a/../x\n+++ b/../x\n" + EDIT, ["../x"]),
        ("--- /etc/passwd\n+++ /etc/passwd\n" + EDIT, ["/etc/passwd", "outside"]),
        ("--- /workspace/../etc/x\n+++ /workspace/../etc/x\n" + EDIT, ["no plain path"]),
        ("--- /dev/null\n+++ b/.git/hooks/pre-commit\n@@ -0,0 +1 @@\n+x\n", [".git", "git's own"]),
        ("--- /dev/null\n+++ b/sub/.GIT/config\n@@ -0,0 +1 @@\n+x\n", ["git's own"]),
        ('--- /dev/null\n+++ "b/.g\\342\\200\\214it/config"\n@@ -0,0 +1 @@\n+x\n', ["git's own"]),
        ('--- /dev/null\n+++ "b/..\\057x"\n@@ -0,0 +1 @@\n+x\n', ["no plain path"]),
        ('--- /dev/null\n+++ "b/x\\000y"\n@@ -0,0 +1 @@\n+x\n', ["no plain path"]),
        ('--- /dev/null\n+++ "b/x\n@@ -0,0 +1 @@\n+x\n', ["no end"]),
        ("diff --git a/x b/x\nrename from ../x\nrename to y\n", ["../x"]),
        ("--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+x\n--- /dev/null\n+++ b/n/m\n@@ -0,0 +1 @@\n+x\n", ["same patch"]),
        ("--- a/app.py\n+++ b/app.py\n@@\n+lost\n", ["does not say where", "a line that stays"]),
        ("--- a/app.py\n+++ b/app.py\n@@ -40,0 +41 @@\n+lost\n", ["behind line 40", "not there"]),
        ("--- a/app.py\n+++ b/app.py\n" + EDIT + "--- a/bare.txt\n+++ b/bare.txt\n", ["bare.txt", "no hunk follows"]),
        ("--- /dev/null\n+++ b/n\n@@ -0,0 +1,3 @@\n+a\n\n+b\n", ["n: hunk 1 has lines without `+`", "empty ones too"]),
        ("--- a\\x\n+++ b\\x\n@@ -1 +1 @@\n-x\n+y\n", ['to "b\\\\x": its header lines name two files']),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(patch: str, words: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        plan(patch, reader(FILES))
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint


def test_a_failing_hunk_says_what_stands_there() -> None:
    patch = "--- a/app.py\n+++ b/app.py\n@@ -1,2 +1,2 @@\n-one\n+1\n two\n@@ -5,3 +5,3 @@\n five\n-SIX\n+6\n seven\n"
    with pytest.raises(InvalidArgument) as caught:
        plan(patch, reader(FILES))
    assert "app.py: hunk 2 does not fit: line 6 should be SIX but is six" in caught.value.message
    assert "5: five\n6: six\n7: seven" in (caught.value.hint or "")


def test_a_hunk_that_is_there_already_is_told() -> None:
    with pytest.raises(InvalidArgument, match="applied already"):
        plan("--- a/app.py\n+++ b/app.py\n" + EDIT, reader({"app.py": CHANGED}))


def test_a_hunk_without_numbers_must_be_unambiguous() -> None:
    with pytest.raises(InvalidArgument, match="several places"):
        plan("--- a/f\n+++ b/f\n@@\n-x\n+y\n", reader({"f": b"x\nx\n"}))


def expect_plan_or_refusal(patch: str) -> None:
    refusal = None
    try:
        applied(patch)
    except InvalidArgument as error:
        refusal = error
    assert refusal is None or refusal.message.startswith("cannot")


@given(st.text(alphabet='ab+-@ \\"\n\r\t/.0123,\x00\u00e9', max_size=300), st.booleans())
def test_any_text_is_planned_or_refused(noise: str, headed: bool) -> None:
    expect_plan_or_refusal(("--- a/app.py\n+++ b/app.py\n" if headed else "") + noise)


PARTS = [
    *("diff --git a/app.py b/app.py", "--- a/app.py", "+++ b/app.py", "--- /dev/null", "+++ /dev/null", "@@"),
    *("@@ -1,2 +1,2 @@", "@@ -0,0 +1 @@", " one", "-two", "+TWO", "", "\\ No newline at end of file"),
    *("rename from app.py", "rename to q", "copy from app.py", "copy to r", "old mode 100644"),
    *("new file mode 100644", "deleted file mode 100644", "new mode 100755"),
]


@given(st.lists(st.sampled_from(PARTS), max_size=14))
def test_any_order_of_lines_is_planned_or_refused(lines: list[str]) -> None:
    expect_plan_or_refusal("\n".join(lines) + "\n")


LINKS = {"link": Present(b"app.py", "symlink"), "app.py": Present(FILES["app.py"], mode=0o755)}


def steps(patch: str) -> list[PatchOperation]:
    return plan(patch, LINKS.get)


def test_links_are_made_led_elsewhere_and_deleted() -> None:
    made = steps(
        "diff --git a/n b/n\nnew file mode 120000\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+../../etc\n"
        "\\ No newline at end of file\n"
    )
    assert made == [PatchOperation("link", "n", b"../../etc")]
    edit = "@@ -1 +1 @@\n-app.py\n\\ No newline at end of file\n+dir\n\\ No newline at end of file\n"
    digest = sha256(b"app.py").hexdigest()
    led = [PatchOperation("link", "link", b"dir", before_sha256=digest)]
    assert steps("diff --git a/link b/link\nindex 1..2 120000\n--- a/link\n+++ b/link\n" + edit) == led
    assert steps("--- a/link\n+++ b/link\n@@ -1 +1 @@\n-app.py\n+dir\n") == led
    head = "diff --git a/link b/link\ndeleted file mode 120000\n"
    gone = steps(head + "--- a/link\n+++ /dev/null\n@@ -1 +0,0 @@\n-app.py\n")
    assert gone == [PatchOperation("delete", "link", before_sha256=digest)]


def test_a_link_becomes_a_file_by_two_sections() -> None:
    planned = steps(
        "diff --git a/link b/link\ndeleted file mode 120000\n--- a/link\n+++ /dev/null\n@@ -1 +0,0 @@\n-app.py\n"
        "diff --git a/link b/link\nnew file mode 100755\n--- /dev/null\n+++ b/link\n@@ -0,0 +1 @@\n+x\n"
    )
    assert [(step.kind, step.path, step.content, step.mode) for step in planned] == [
        ("delete", "link", None, None),
        ("write", "link", b"x\n", 0o755),
    ]
    assert statuses(planned) == {"link": "modified"}


def test_nothing_is_written_through_a_link() -> None:
    with pytest.raises(InvalidArgument, match="symbolic link to app") as caught:
        steps("--- a/link\n+++ b/link\n" + EDIT)
    assert "leads to" in (caught.value.hint or "")
    with pytest.raises(InvalidArgument, match="n is a symbolic link in the same patch"):
        steps(
            "diff --git a/n b/n\nnew file mode 120000\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+/etc\n"
            "--- /dev/null\n+++ b/n/passwd\n@@ -0,0 +1 @@\n+x\n"
        )


def test_a_copy_keeps_the_exec_bit() -> None:
    (step,) = steps("diff --git a/app.py b/c.py\nsimilarity index 100%\ncopy from app.py\ncopy to c.py\n")
    assert (step.kind, step.path, step.content, step.mode) == ("write", "c.py", FILES["app.py"], 0o755)
    (step,) = steps("diff --git a/link b/l2\nsimilarity index 100%\ncopy from link\ncopy to l2\n")
    assert (step.kind, step.path, step.content) == ("link", "l2", b"app.py")


def test_a_copy_is_of_what_was_there_before_the_patch() -> None:
    edit = "diff --git a/app.py b/app.py\nold mode 100755\nnew mode 100644\n--- a/app.py\n+++ b/app.py\n" + EDIT
    copy = "diff --git a/app.py b/c.py\ncopy from app.py\ncopy to c.py\n--- a/app.py\n+++ b/c.py\n" + EDIT
    found = {step.path: (step.content, step.mode) for step in steps(edit + copy)}
    assert found == {"app.py": (CHANGED, 0o644), "c.py": (CHANGED, 0o755)}
    moved = "diff --git a/app.py b/d.py\nrename from app.py\nrename to d.py\n"
    assert {step.path for step in steps(moved + copy)} == {"app.py", "c.py"}
