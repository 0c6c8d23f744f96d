"""File results: what the `file` verbs answer about the files of a workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.result import Result

FileType = Literal["file", "directory", "symlink", "other"]
"""`other` is a socket, a FIFO or a device: it can be listed, but neither read nor exported."""


@dataclass(frozen=True, kw_only=True)
class FileEntry(Result):
    """One name. `path` is absolute; a lone surrogate in it stands for a byte that is not UTF-8.

    `size_bytes` is 0 and `link_target` null where they have no meaning.
    """

    path: str
    artifact_type: FileType
    size_bytes: int = 0
    link_target: str | None = None


@dataclass(frozen=True, kw_only=True)
class FileList(Result):
    """What is below `path`, or `path` itself when it is no directory: `count` entries after the first `offset`.

    `truncated`: there is more than was asked for, which `next_offset` reads.
    """

    workspace_id: str
    path: str
    recursive: bool
    pattern: str | None
    count: int
    offset: int = 0
    next_offset: int | None = None
    truncated: bool
    execution_mode: ExecutionMode
    isolation: Isolation
    entries: list[FileEntry]


@dataclass(frozen=True, kw_only=True)
class FileContent(Result):
    """A file as text, from `offset` on.

    `size_bytes` is the whole file's, `truncated` says that more follows after `content`, which `next_offset` then
    reads. `offset` is moved to the next character when it was within one. A `binary` file has no content. `sha256` is
    the whole file's digest, null when the file is too large to be digested in passing.

    When it was read by lines, `first_line` is the number of the first, from 1, `next_line` that of the one after the
    last when the content ends with a line, and `line_count` is the whole file's, null when not all of it was read.
    """

    workspace_id: str
    path: str
    size_bytes: int
    max_bytes: int
    truncated: bool
    binary: bool
    sha256: str | None
    execution_mode: ExecutionMode
    isolation: Isolation
    offset: int = 0
    next_offset: int | None = None
    first_line: int | None = None
    next_line: int | None = None
    line_count: int | None = None
    content: str


@dataclass(frozen=True, kw_only=True)
class FileProblem(Result):
    """Why one of several files could not be read."""

    code: str
    message: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True)
class FileView(Result):
    """Lines of a text file, each with its number before it, which is not part of the file.

    `offset` is the number of the first line, `next_offset` that of the next one when there are more. `cut_lines` of
    those shown are too long to be shown whole, and say so. `line_count` and `sha256` are the whole file's, null when it
    is too large to be read in passing. `line_ends` is `crlf` when every line shown ends so, which is not shown. A
    `binary` file has no content.
    """

    path: str | None = None
    size_bytes: int = 0
    line_count: int | None = None
    offset: int = 1
    next_offset: int | None = None
    truncated: bool = False
    cut_lines: int = 0
    binary: bool = False
    line_ends: Literal["crlf"] | None = None
    sha256: str | None = None
    error: FileProblem | None = None
    content: str = ""


@dataclass(frozen=True, kw_only=True)
class FileViews(FileView):
    """The view of one file, or of several as `files`."""

    workspace_id: str
    execution_mode: ExecutionMode
    isolation: Isolation
    files: list[FileView] | None = None


@dataclass(frozen=True, kw_only=True)
class FileWritten(Result):
    """A file that has been replaced as a whole, or `created`."""

    workspace_id: str
    path: str
    size_bytes: int
    bytes_written: int
    created: bool
    sha256: str
    execution_mode: ExecutionMode
    isolation: Isolation


class FileEdit(TypedDict):
    """One edit: `old_string` is replaced by `new_string` in the one place where it stands, or everywhere."""

    old_string: str
    new_string: str
    replace_all: NotRequired[bool]


@dataclass(frozen=True, kw_only=True)
class FileEdited(Result):
    """A file in which texts were replaced, or that was `created`.

    `first_changed_line` is counted from 1. `line_ends` is set when a text was given with other line ends than the file
    has, and says which were kept.
    """

    workspace_id: str
    path: str
    size_bytes: int
    created: bool
    replacements: int
    first_changed_line: int
    line_ends: Literal["crlf", "lf"] | None
    sha256: str
    execution_mode: ExecutionMode
    isolation: Isolation


@dataclass(frozen=True, kw_only=True)
class FileMatch(Result):
    """One matching line, numbered from 1; a long one is cut around the match."""

    path: str
    line: int
    text: str


@dataclass(frozen=True, kw_only=True)
class FileSearch(Result):
    """The lines that match, after the first `offset`. `truncated`: there may be more, which `next_offset` reads;
    `timed_out`: because the time was up.

    `files_skipped` counts those that are binary or too large to be searched.
    """

    workspace_id: str
    path: str
    pattern: str
    glob: str | None
    count: int
    offset: int = 0
    next_offset: int | None = None
    truncated: bool
    timed_out: bool
    files_searched: int
    files_skipped: int
    execution_mode: ExecutionMode
    isolation: Isolation
    matches: list[FileMatch]
