"""Project: what a project asks for its workspaces in its pyro.toml, and a person's consent to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pyro_mcp.api.params import RepoRef, RepoUrl
from pyro_mcp.api.workspace import declared
from pyro_mcp.model.project import Project, ProjectSource, ProjectTrust
from pyro_mcp.operations.fields import Param
from pyro_mcp.operations.operation import Effects, operation

if TYPE_CHECKING:
    from pyro_mcp.engine.engine import Engine
    from pyro_mcp.operations.call import Call

ProjectPath = Annotated[
    str,
    Param(
        help="directory of the project, or a path in its checkout; the working directory if none is given",
        min_length=1,
        max_length=4096,
        metavar="PATH",
        host_path=True,
        here_when=(),
        cli="positional",
    ),
]
Sha256 = Annotated[
    str,
    Param(
        help="digest of the file that was looked at, from <<show_project>>",
        pattern=r"^[0-9a-f]{64}$",
        rule="64 hexadecimal digits",
        metavar="DIGEST",
        cli="never",
    ),
]


@operation(cli=("project", "show"), title="Show a project", effects=Effects(read_only=True, idempotent=True))
def show_project(
    call: Call[Engine],
    path: ProjectPath | None = None,
    *,
    repo_url: RepoUrl | None = None,
    repo_ref: RepoRef | None = None,
) -> Project:
    """Show what the pyro.toml of a project asks for its workspaces, and whether you have agreed to it.

    A project is a git checkout or another directory of this host, or a remote repository, which is cloned first.
    """
    return call.engine.projects.show(call, declared(), _source(path, repo_url, repo_ref))


@operation(cli=("project", "trust"), title="Trust a project", effects=Effects(idempotent=True))
def trust_project(
    call: Call[Engine],
    path: ProjectPath | None = None,
    *,
    repo_url: RepoUrl | None = None,
    repo_ref: RepoRef | None = None,
    sha256: Sha256,
) -> ProjectTrust:
    """Agree to what the pyro.toml of a project asks for beyond what a workspace gets anyway, such as a network.

    It holds for this state directory until the file changes in any way.
    """
    return call.engine.projects.trust(call, declared(), _source(path, repo_url, repo_ref), sha256)


def _source(path: str | None, repo_url: str | None, repo_ref: str | None) -> ProjectSource:
    return ProjectSource(repo_url=repo_url, repo_ref=repo_ref) if repo_url else ProjectSource(path, with_file=True)
