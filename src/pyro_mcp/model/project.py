"""Projects: where a workspace may come from, what a project's own file says, and what became of it in a workspace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.result import Result
from pyro_mcp.model.workspace import Workspace


@dataclass(frozen=True)
class ProjectSource:
    """Where a workspace is to come from, as the caller says it: a path, alone or with the repository around it, or a
    remote repository; nothing, if it begins empty. `with_file`: the pyro.toml beside a path without repository
    counts."""

    seed_path: str | None = None
    git: bool = False
    repo_url: str | None = None
    repo_ref: str | None = None
    empty: bool = False
    with_file: bool = False

    def check(self) -> None:
        """Raises `InvalidArgument` for what contradicts itself."""
        given = {
            "seed_path": self.seed_path is not None or self.git,
            "repo_url": self.repo_url is not None,
            "empty": self.empty,
        }
        named = [name for name, there in given.items() if there]
        if len(named) > 1:
            raise InvalidArgument(f"cannot start from two things: {' and '.join(named)}", hint="Give one of them")
        if self.repo_ref is not None and self.repo_url is None:
            raise InvalidArgument("cannot check out repo_ref: there is no repo_url", hint="Give both, or neither")
        if self.git and self.seed_path is None:
            raise InvalidArgument(
                "cannot take a checkout: no path says which", hint="Give <<create_workspace.seed_path>>, a path in it"
            )
        if self.seed_path is not None and not self.seed_path.startswith("/"):
            raise InvalidArgument(
                f"cannot import {self.seed_path[:300]!a}: it is not absolute", hint="Give the whole path"
            )


@dataclass(frozen=True, kw_only=True)
class Project(Result):
    """A project and its pyro.toml.

    `path` is its directory on this host, or the clone of `repo_url`. `file` is null where there is none, and so is all
    that follows from it: `sha256` of its bytes, `environment`, `settings` with the names that a workspace's creation
    has for them, `setup` command lines, and `services` by name. `widens` says in words what of it needs a person's
    consent (under `host_compat`, set-up and services do as well), `trusted` whether there is one for exactly these
    bytes.
    """

    path: str
    repo_url: str | None = None
    file: str | None = None
    sha256: str | None = None
    trusted: bool = False
    environment: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    widens: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ProjectTrust(Result):
    """A consent that is kept: workspaces of `project`, a path or a URL, get all that the file with `sha256` says."""

    project: str
    sha256: str
    widens: list[str]


@dataclass(frozen=True, kw_only=True)
class SetupStep(Result):
    """A set-up command that ran, with the end of its output; `sequence` finds the rest in the logs."""

    command: str
    exit_code: int
    sequence: int
    output: str = ""


@dataclass(frozen=True, kw_only=True)
class ProjectService(Result):
    """A service of the project: `state` as its status has it, or null and the `reason` why it could not be started,
    with the `hint` that says what to do."""

    service_name: str
    state: str | None
    reason: str | None = None
    hint: str | None = None


@dataclass(frozen=True, kw_only=True)
class AppliedProject(Result):
    """What a new workspace got from pyro.toml: `applied` settings, and what was `left_out` because nobody has
    consented, with the `hint` that says how. Set-up ends at the first command that fails, and then no service is
    started."""

    file: str
    applied: list[str]
    left_out: list[str] = field(default_factory=list)
    hint: str | None = None
    setup: list[SetupStep] = field(default_factory=list)
    setup_failed: bool = False
    services: list[ProjectService] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class CreatedWorkspace(Workspace):
    """A workspace that is new; `project` is null without a pyro.toml."""

    project: AppliedProject | None = None
