"""Projects: where a workspace comes from, and what the project's pyro.toml makes of it.

A project is a checkout of this host, a directory, or a clone that is kept of a remote repository. What the caller gave
wins over the file, and the file over the verbs' defaults. What of a file needs a consent that nobody has given is left
out of the workspace and named in the answer.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_mcp.engine.fleet.networks import Networks
from pyro_mcp.engine.projects.clones import Clones
from pyro_mcp.engine.projects.file import NETWORK, PORTS, Declared, ProjectFile, read_file, require_file
from pyro_mcp.engine.projects.trust import Trust
from pyro_mcp.engine.seed import SeedRequest
from pyro_mcp.engine.workspaces.lifecycle import Lifecycle
from pyro_mcp.errors import Cancelled, Conflict, PyroError
from pyro_mcp.model.project import (
    AppliedProject,
    CreatedWorkspace,
    Project,
    ProjectService,
    ProjectSource,
    ProjectTrust,
    SetupStep,
)
from pyro_mcp.model.size import MachineSize
from pyro_mcp.model.workspace import Workspace
from pyro_mcp.operations.call import Call
from pyro_mcp.settings import host_environ
from pyro_mcp.system.git import plain_url, project_top, top_level

SETUP_SECONDS = 1800
_OUTPUT = 2000


@dataclass(frozen=True)
class _Opened:
    """A source that can be read: what to seed from, and under which name its file is trusted, where it may have one."""

    seed: SeedRequest | None
    root: Path | None = None
    name: str = ""


@dataclass
class _Plan:
    """What a workspace gets, and what of its project's file that is."""

    values: dict[str, Any]
    file: ProjectFile | None = None
    trusted: bool = False
    applied: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    hint: str | None = None


class Projects:
    """Workspaces from projects. Every method may be called from any thread."""

    def __init__(self, lifecycle: Lifecycle, networks: Networks, clones: Clones, trust: Trust) -> None:
        self._lifecycle = lifecycle
        self._networks = networks
        self._clones = clones
        self._trust = trust

    # -- the file

    def show(self, call: Call[Any], declared: Declared, source: ProjectSource) -> Project:
        """The project and its file, without making anything of it but a clone."""
        source.check()
        with self._opened(call, source) as opened:
            assert opened.root is not None
            found = read_file(opened.root, declared)
            about = Project(path=str(opened.root), repo_url=source.repo_url and plain_url(source.repo_url))
            if found is None:
                return about
            return Project(
                path=about.path,
                repo_url=about.repo_url,
                file=str(found.path),
                sha256=found.sha256,
                trusted=self._trust.trusted(opened.name, found.sha256),
                environment=found.settings.get("environment"),
                settings=found.settings,
                setup=found.setup,
                services=found.services,
                widens=list(found.widens.values()),
            )

    def trust(self, call: Call[Any], declared: Declared, source: ProjectSource, sha256: str) -> ProjectTrust:
        """Agree to the file with `sha256`. Raises `Conflict` when the file is another one by now."""
        source.check()
        with self._opened(call, source) as opened:
            assert opened.root is not None
            found = require_file(opened.root, declared)
            if found.sha256 != sha256:
                raise Conflict(
                    f"cannot trust {found.path}: it changed since it was shown",
                    hint="Look at it again: <<show_project>>",
                )
            self._trust.add(opened.name, sha256)
            return ProjectTrust(project=opened.name, sha256=sha256, widens=list(found.widens.values()))

    # -- a workspace

    def create(
        self, call: Call[Any], declared: Declared, source: ProjectSource, values: Mapping[str, Any]
    ) -> CreatedWorkspace:
        """Make a workspace of `values`, the parameters of its creation, from `source`, set it up and start its
        services. What fails or is cancelled on the way leaves nothing; a set-up command that exits with another code
        than 0 is told, and leaves the workspace."""
        source.check()
        with self._opened(call, source) as opened:
            plan = self._plan(call, declared, opened, source, values)
            made = self._make(call, opened.seed, plan.values)
        if plan.file is None:
            return CreatedWorkspace(**dict(made.items()))
        try:
            done = self._set_up(call, declared, made, plan)
        except BaseException:
            self._lifecycle.delete(made.workspace_id)
            raise
        return CreatedWorkspace(**dict(self._lifecycle.status(made.workspace_id).items()), project=done)

    def _make(self, call: Call[Any], seed: SeedRequest | None, values: dict[str, Any]) -> Workspace:
        network = {name: values.pop(name) for name in NETWORK}
        size = MachineSize(values.pop("vcpu_count"), values.pop("mem_mib"), values.pop("scratch_mib"))
        asked = self._networks.asked(network.pop("network_policy"), **network)
        return self._lifecycle.create(call, seed=seed, network=asked, size=size, **values)

    @contextlib.contextmanager
    def _opened(self, call: Call[Any], source: ProjectSource) -> Iterator[_Opened]:
        """The source, kept as it is while inside."""
        if source.repo_url is not None:
            with self._clones.checkout(call, source.repo_url, source.repo_ref, host_environ()) as clone:
                seed = SeedRequest(clone.root, git=True, origin={"seed_path": None, "repo_url": clone.url})
                yield _Opened(seed, clone.root, clone.url)
        elif source.seed_path is None:
            yield _Opened(None)
        else:
            path = Path(source.seed_path)
            root = (
                top_level(path) if source.git else project_top(path) if source.with_file else None
            ) or path.resolve()
            yield _Opened(SeedRequest(root if source.git else path, git=source.git), root, str(root))

    def _plan(
        self, call: Call[Any], declared: Declared, opened: _Opened, source: ProjectSource, given: Mapping[str, Any]
    ) -> _Plan:
        plan = _Plan(dict(given))
        if opened.root is None or not (source.git or source.repo_url or source.with_file):
            return plan
        plan.file = found = read_file(opened.root, declared)
        if found is None:
            return plan
        plan.trusted = self._trust.trusted(opened.name, found.sha256)
        for name, value in found.settings.items():
            if name in call.given:
                continue
            if name in found.widens and not plan.trusted:
                plan.left_out.append(found.widens[name])
            else:
                plan.values[name] = value
                plan.applied.append(name)
        if not plan.trusted:
            plan.left_out += [line for name, line in found.widens.items() if name.startswith("services.")]
        self._without_network(call, plan, given)
        plan.hint = f"A person allows it with `{_trusting(opened, source)}`"
        return plan

    def _without_network(self, call: Call[Any], plan: _Plan, given: Mapping[str, Any]) -> None:
        """What narrows or widens a network has no meaning where the caller wants none."""
        if plan.values["network_policy"] == "off":
            for name in NETWORK[1:]:
                if name in plan.applied and name not in call.given:
                    plan.values[name] = given[name]
                    plan.applied.remove(name)

    # -- set-up

    def _set_up(self, call: Call[Any], declared: Declared, made: Workspace, plan: _Plan) -> AppliedProject:
        found = plan.file
        assert found is not None
        setup, services = found.setup, found.services
        if made.execution_mode == "host_compat" and not plan.trusted and (setup or services):
            # There, inside is this host.
            plan.left_out.append("set-up and services, which would run on this host without isolation")
            setup, services = [], {}
        if plan.left_out:
            call.notice(f"{found.path}: left out: {'; '.join(plan.left_out)}. {plan.hint}")
        steps = _steps(call, declared, made.workspace_id, setup)
        failed = bool(steps) and steps[-1].exit_code != 0
        started = {} if failed else services
        return AppliedProject(
            file=str(found.path),
            applied=plan.applied,
            left_out=plan.left_out,
            hint=plan.hint if plan.left_out else None,
            setup=steps,
            setup_failed=failed,
            services=[
                self._start(declared, call, made.workspace_id, name, options, plan) for name, options in started.items()
            ],
        )

    def _start(
        self, declared: Declared, call: Call[Any], workspace_id: str, name: str, options: dict[str, Any], plan: _Plan
    ) -> ProjectService:
        if not plan.trusted:
            options = {key: value for key, value in options.items() if key != PORTS}
        call.progress(f"starting the service {name}")
        try:
            with call.within() as inner:
                made = declared["start_service"].function(inner, workspace_id, name, **options)
        except Cancelled:
            raise
        except PyroError as error:
            return ProjectService(service_name=name, state=None, reason=error.message, hint=error.hint)
        return ProjectService(service_name=name, state=made.state, reason=made.stop_reason)


def _steps(call: Call[Any], declared: Declared, workspace_id: str, lines: list[str]) -> list[SetupStep]:
    """Run `lines` up to the first that fails."""
    steps: list[SetupStep] = []
    for number, line in enumerate(lines, 1):
        call.progress(f"set-up {number} of {len(lines)}: {line[:200]}")
        with call.within() as inner:
            done = declared["exec_workspace"].function(inner, workspace_id, command=line, timeout_seconds=SETUP_SECONDS)
        code = 1 if done.exit_code is None else done.exit_code
        output = (done.stdout + done.stderr)[-_OUTPUT:]
        steps.append(SetupStep(command=line, exit_code=code, sequence=done.sequence, output=output))
        if code != 0:
            call.notice(f"set-up failed: `{line[:200]}` ended with {code}")
            break
    return steps


def _trusting(opened: _Opened, source: ProjectSource) -> str:
    """The command that shows the file and asks for consent."""
    words = ["pyro", "project", "trust"]
    words += [str(opened.root)] if source.repo_url is None else ["--repo-url", opened.name]
    return shlex.join([*words, *(["--repo-ref", source.repo_ref] if source.repo_ref else [])])
