"""Files, for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_mcp.model.count import count_of
from pyro_mcp.model.file import FileContent, FileEdited, FileEntry, FileList, FileSearch, FileWritten
from pyro_mcp.surfaces.cli.escapes import plain
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.cli.render.common import put, size, table

if TYPE_CHECKING:
    from rich.console import Console

_MARKS = {"directory": "dir", "symlink": "link", "other": "other"}


def draw_list(console: Console, result: FileList) -> None:
    """One line per name, relative to what was listed."""
    if not result.count:
        console.print(f"nothing in {plain(result.path)}" + (" matches" if result.pattern else ""), soft_wrap=True)
        return
    rows = table("SIZE", "NAME", folds=("NAME",))
    for entry in result.entries:
        rows.add_row(_MARKS.get(entry.artifact_type) or size(entry.size_bytes), _name(entry, result.path))
    put(console, rows)
    if result.truncated:
        how = "--limit" if result.next_offset is None else f"--offset {result.next_offset}"
        console.print(f"{'the first ' if not result.offset else ''}{result.count}; there are more ({how})")


def _name(entry: FileEntry, root: str) -> str:
    name = entry.path.removeprefix(root.rstrip("/") + "/") or entry.path
    if entry.artifact_type == "symlink":
        return plain(f"{name} -> {entry.link_target}")
    return plain(name) + ("/" if entry.artifact_type == "directory" else "")


def after_read(result: FileContent, output: Output) -> None:
    """The file's text on stdout; on stderr what it does not show."""
    if result.binary:
        output.notice(f"{result.path} is binary, {size(result.size_bytes)}; copy it out with `pyro workspace export`")
        return
    content = result.content if result.first_line is None else _numbered(result.content, result.first_line)
    output.live(1, content.encode("utf-8", "surrogateescape"))
    output.finish()
    if result.truncated:
        if result.next_line is not None:
            output.notice(f"read on with --offset-lines {result.next_line}")
        elif result.next_offset is None:
            output.notice(f"this is the beginning of {count_of(result.size_bytes, 'byte')} (--max-bytes)")
        else:
            output.notice(f"it has {count_of(result.size_bytes, 'byte')}; read on with --offset {result.next_offset}")


def _numbered(content: str, first: int) -> str:
    """The lines as `cat -n` shows them."""
    lines = content.removesuffix("\n").split("\n") if content else []
    return "".join(f"{number:6}\t{line}\n" for number, line in enumerate(lines, first))


def draw_written(console: Console, result: FileWritten) -> None:
    """What was written."""
    verb = "made" if result.created else "replaced"
    console.print(f"{verb} {plain(result.path)}: {count_of(result.bytes_written, 'byte')}", soft_wrap=True)


def draw_edited(console: Console, result: FileEdited) -> None:
    """How often, and where it begins."""
    count = count_of(result.replacements, "replacement")
    verb = "made" if result.created else f"{count} in"
    kept = f"; its line ends ({result.line_ends.upper()}) are kept" if result.line_ends else ""
    where = "" if result.created else f", from line {result.first_changed_line} on"
    console.print(f"{verb} {plain(result.path)}{where}: {count_of(result.size_bytes, 'byte')}{kept}", soft_wrap=True)


def draw_search(console: Console, result: FileSearch) -> None:
    """The lines as `grep` shows them, and the counts."""
    for match in result.matches:
        name = match.path.removeprefix("/workspace/")
        console.print(f"{plain(name)}:{match.line}: {plain(match.text)}", soft_wrap=True)
    more = f"; there may be more (--offset {result.next_offset})" if result.next_offset is not None else ""
    more = "; the time was up, there may be more" if result.timed_out else more
    found, searched = len({match.path for match in result.matches}), f"{result.files_searched} searched"
    skipped = f", {result.files_skipped} binary or large left out" if result.files_skipped else ""
    console.print(
        f"{count_of(result.count, 'line')} in {count_of(found, 'file')}, {searched}{skipped}{more}", soft_wrap=True
    )
