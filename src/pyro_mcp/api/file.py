"""Files: look at and change single files of a workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pyro_mcp.api.params import PageOffset, WorkspacePath, WorkspaceRef
from pyro_mcp.model.file import FileContent, FileEdit, FileEdited, FileList, FileSearch, FileViews, FileWritten
from pyro_mcp.operations.fields import Param
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

_READ = Effects(read_only=True, idempotent=True)
MIB = 1024 * 1024

Recursive = Annotated[bool, Param(help="list what is in directories below, too")]
GlobPattern = Annotated[
    str,
    Param(
        help="only names that match, at any depth, such as *.py or src/**/*.{c,h}",
        min_length=1,
        max_length=1024,
        metavar="GLOB",
    ),
]
SearchPattern = Annotated[
    str,
    Param(
        help="Python regular expression to look for, line by line",
        min_length=1,
        max_length=4096,
        metavar="REGEX",
        cli="positional",
    ),
]
IgnoreCase = Annotated[bool, Param(help="let upper and lower case be the same")]
ListLimit = Annotated[int, Param(help="most entries to answer with", ge=1, le=10_000, metavar="N", tool_max=100)]
SearchLimit = Annotated[
    int, Param(help="most matching lines to answer with", ge=1, le=10_000, metavar="N", tool_max=100)
]
MaxBytes = Annotated[int, Param(help="most bytes to read", ge=1, le=4 * MIB, metavar="N", tool_max=8_000)]
Offset = Annotated[
    int,
    Param(help="first byte to read, such as the last next_offset", ge=0, le=1 << 53, metavar="BYTES"),
]
OffsetLines = Annotated[
    int, Param(help="read by lines, and begin with this one, counted from 1", ge=0, le=1 << 53, metavar="N")
]
Lines = Annotated[int, Param(help="read by lines, and so many of them", ge=1, le=1 << 53, metavar="N")]
OnePath = Annotated[str, Param(help="path of the file under /workspace", min_length=1, max_length=4096)]
Paths = Annotated[
    list[str],
    Param(help="several files instead of one, which share the room of one answer", min_length=1, max_length=16),
]
FirstLine = Annotated[int, Param(help="number of the first line to read", ge=0, le=1 << 53)]
LineLimit = Annotated[int, Param(help="most lines to read", ge=1, le=10_000)]
Text = Annotated[
    str,
    Param(help="the file's whole content as text", max_length=4 * MIB, metavar="TEXT", file_flag="--text-file"),
]
ExpectedSha256 = Annotated[
    str,
    Param(
        help="refuse unless the file has this SHA-256, from read or write; absent: unless there is no file yet",
        pattern=r"^([0-9a-f]{64}|absent)$",
        rule="64 lower-case hex digits, or absent",
        metavar="SHA256",
    ),
]
OldString = Annotated[
    str,
    Param(
        help="the text to replace, exactly as it stands in the file, with enough around it to be the only one; empty"
        " only for a new or an empty file",
        max_length=4 * MIB,
        metavar="TEXT",
        flag="--old",
        file_flag="--old-file",
    ),
]
NewString = Annotated[
    str,
    Param(
        help="the text to put in its place", max_length=4 * MIB, metavar="TEXT", flag="--new", file_flag="--new-file"
    ),
]
ReplaceAll = Annotated[bool, Param(help="replace it wherever it stands")]
Edits = Annotated[
    list[FileEdit],
    Param(
        help="several edits instead of one, as a list of old_string, new_string and replace_all; each is made on the"
        " result of the one before",
        min_length=1,
        max_length=500,
        metavar="FILE",
        flag="--edits-file",
        cli="json_file",
    ),
]


@operation(cli=("workspace", "file", "list"), tool="workspace_file_list", title="List files", effects=_READ)
def list_workspace_files(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    path: WorkspacePath = "/workspace",
    *,
    recursive: Recursive = False,
    pattern: GlobPattern | None = None,
    limit: ListLimit = 1000,
    offset: PageOffset = 0,
) -> FileList:
    """List a directory of the workspace, or find files by name with a pattern.

    Links are shown, not followed.
    """
    return call.engine.files.list(
        call, workspace_id, path, recursive=recursive, pattern=pattern, limit=limit, offset=offset
    )


@operation(
    cli=("workspace", "file", "read"),
    effects=_READ,
    text_field="content",
)
def read_workspace_file(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    path: WorkspacePath,
    *,
    max_bytes: MaxBytes = 65_536,
    offset: Offset = 0,
    offset_lines: OffsetLines | None = None,
    lines: Lines | None = None,
) -> FileContent:
    """Read a text file of the workspace, or a part of a longer one.

    A truncated answer says where to read on: `next_offset`, and by lines `next_line`. A binary file is reported as such
    and has no content.
    """
    return call.engine.files.read(
        call, workspace_id, path, max_bytes=max_bytes, offset=offset, first=offset_lines, count=lines
    )


@operation(tool="workspace_file_read", title="Read files", effects=_READ)
def view_workspace_files(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    *,
    path: OnePath | None = None,
    paths: Paths | None = None,
    offset: FirstLine = 1,
    limit: LineLimit = 2000,
) -> FileViews:
    """Read a text file of the workspace, or several at once, by lines.

    Each line comes as number→text; number and arrow are not part of the file. Long lines are cut, and what is too much
    for one answer: `next_offset` then reads on; a cut line says how to see its rest.
    """
    return call.engine.files.view(call, workspace_id, path=path, paths=paths, offset=offset, limit=limit)


@operation(cli=("workspace", "file", "write"), tool="workspace_file_write", title="Write a file", effects=Effects())
def write_workspace_file(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    path: WorkspacePath,
    *,
    text: Text,
    expected_sha256: ExpectedSha256 | None = None,
) -> FileWritten:
    """Write a text file of the workspace as a whole, making missing directories.

    A file that is there is replaced at once and keeps its mode.
    """
    return call.engine.files.write(call, workspace_id, path, text=text, expected_sha256=expected_sha256)


@operation(cli=("workspace", "file", "edit"), tool="workspace_file_edit", title="Edit a file", effects=Effects())
def edit_workspace_file(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    path: WorkspacePath,
    *,
    old_string: OldString | None = None,
    new_string: NewString | None = None,
    replace_all: ReplaceAll = False,
    edits: Edits | None = None,
    expected_sha256: ExpectedSha256 | None = None,
) -> FileEdited:
    """Replace exact texts in a file of the workspace: one, or several at once, of which all are made or none.

    A text must stand there exactly once, unless all of them are to be replaced. Line ends, encoding and mode stay as
    they are.
    """
    return call.engine.files.edit(
        call,
        workspace_id,
        path,
        old_string=old_string,
        new_string=new_string,
        replace_all=replace_all,
        edits=edits,
        expected_sha256=expected_sha256,
    )


@operation(cli=("workspace", "file", "search"), tool="workspace_file_search", title="Search files", effects=_READ)
def search_workspace_files(
    call: Call[Engine],
    workspace_id: WorkspaceRef,
    pattern: SearchPattern,
    path: WorkspacePath = "/workspace",
    *,
    glob: GlobPattern | None = None,
    ignore_case: IgnoreCase = False,
    limit: SearchLimit = 200,
    offset: PageOffset = 0,
) -> FileSearch:
    """Search the workspace's text files for lines that match a regular expression.

    Binary and very large files, and what is in `.git`, are left out.
    """
    return call.engine.files.search(
        call, workspace_id, pattern, path=path, glob=glob, ignore_case=ignore_case, limit=limit, offset=offset
    )
