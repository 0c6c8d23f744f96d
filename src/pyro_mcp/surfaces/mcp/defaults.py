"""Defaults: what the person who started a server gives for what a model leaves out.

A project, from which workspaces begin unless the model names another source or wants none, and an environment: the one
that the project's pyro.toml names, else the server's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.names import DEFAULT_ENVIRONMENT
from pyro_mcp.operations.coerce import coerce
from pyro_mcp.operations.fields import Field
from pyro_mcp.operations.operation import Operation
from pyro_mcp.system.git import project_top, require_source, top_level

FILE = "pyro.toml"
_SOURCES = ("seed_path", "git", "empty")


@dataclass(frozen=True)
class ServerDefaults:
    """`source` is the project as parameters of `create_workspace`, empty without one."""

    environment: str = DEFAULT_ENVIRONMENT
    source: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(
        *,
        environment: str | None = None,
        project_path: Path | str | None = None,
        repo_url: str | None = None,
        repo_ref: str | None = None,
        no_project_source: bool = False,
    ) -> ServerDefaults:
        """The defaults by what a server was started with; without a project named, the checkout around the working
        directory is it. Raises `InvalidArgument` for what contradicts itself or is not there."""
        given = {
            "--project-path": project_path is not None,
            "--repo-url": repo_url is not None,
            "--no-project-source": no_project_source,
        }
        named = [name for name, there in given.items() if there]
        if len(named) > 1:
            raise InvalidArgument(f"cannot serve two projects: {' and '.join(named)}", hint="Give one of them")
        if repo_ref is not None and repo_url is None:
            raise InvalidArgument("cannot use --repo-ref: there is no --repo-url", hint="Give both, or neither")
        source: Mapping[str, Any] = {}
        if repo_url is not None:
            require_source(repo_url, repo_ref)
            source = {"repo_url": repo_url, **({"repo_ref": repo_ref} if repo_ref is not None else {})}
        elif project_path is not None:
            source = _path_source(Path(project_path).expanduser())
        elif not no_project_source and (found := project_top(Path.cwd())) is not None:
            source = _checkout_source(found)
        return ServerDefaults(environment or DEFAULT_ENVIRONMENT, source)

    @property
    def roots(self) -> tuple[str, ...]:
        """The places that the model may name because the project lies there."""
        return (self.source["seed_path"],) if "seed_path" in self.source else ()

    def shown(self, fields: tuple[Field, ...]) -> tuple[Field, ...]:
        """The parameters of a tool, those with a default of this server optional."""
        text = f"the project's, else {self.environment}" if self.source else self.environment
        return tuple(
            replace(one, default=text) if one.name == "environment" and one.required else one for one in fields
        )

    def complete(self, operation: Operation[Any, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` with what the model left out, but for the environment that the project may name."""
        done = dict(given)
        names = {one.name for one in operation.fields}
        if done.get("seed_path") == "" and "empty" in names:
            done = {**done, "seed_path": None, "empty": True}
        if self._is_the_project(done):
            del done["seed_path"]
        if "repo_url" in names and done.get("seed_path") is None:
            source = {"empty": True} if coerce(done.get("empty"), bool) is True else self.source
            done = {**done, **(dict.fromkeys(_SOURCES) if source else {}), **source}
        if "environment" in names:
            done.setdefault("environment", self.environment)
        return {name: value for name, value in done.items() if value is not None or name not in _SOURCES}

    def _is_the_project(self, given: Mapping[str, Any]) -> bool:
        """Whether a model names the project by its path, and says no more of how it is to be taken."""
        path, project = given.get("seed_path"), self.source.get("seed_path")
        if not isinstance(path, str) or project is None or given.get("git") is not None:
            return False
        return bool(os.path.realpath(os.path.expanduser(path)) == os.path.realpath(project))

    @property
    def has_repository(self) -> bool:
        """Whether the project comes with its git repository."""
        return "repo_url" in self.source or "git" in self.source

    def asks_project(self, operation: Operation[Any, Any], arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """What to ask `show_project` for the environment that the model did not name; None where nobody need ask."""
        named = arguments.get("environment") is not None
        if named or not self.source or not any(one.name == "environment" for one in operation.fields):
            return None
        if "seed_path" not in self.source:
            return dict(self.source)
        path = self.source["seed_path"]
        return {"path": path} if os.path.lexists(os.path.join(path, FILE)) else None

    def takes_project(self, operation: Operation[Any, Any], params: Mapping[str, Any]) -> bool:
        """Whether a call with `params`, complete ones, begins from the project, and so by its file."""
        takes = any(one.name == "repo_url" for one in operation.fields)
        return takes and all(params.get(name) == value for name, value in self.source.items())


def checkout_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with the top of the checkout in place of a path in it: what is taken is the whole of it."""
    path = params.get("seed_path")
    if params.get("git") is True and isinstance(path, str) and (found := top_level(Path(path))) is not None:
        return {**params, "seed_path": str(found)}
    return dict(params)


def _checkout_source(top: Path) -> dict[str, Any]:
    """The checkout with its repository; of a linked work tree, whose repository lies elsewhere, the files alone."""
    own = (top / ".git").is_dir() and not (top / ".git").is_symlink()
    return {"seed_path": str(top), **({"git": True} if own else {"project_file": True})}


def _path_source(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise InvalidArgument(
            f"cannot serve the project {path}: there is no such directory", hint="Give --project-path a directory"
        )
    found = project_top(path)
    if found is not None:
        return _checkout_source(found)
    return {"seed_path": os.path.abspath(path), "project_file": True}
