"""Workspaces from projects, over machines that need no virtualisation: what a file gives, what a person must allow."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleetlab import CallRecorder, engine_at, processes_of

from pyro_mcp.api import exec as workspace_exec
from pyro_mcp.api import project, workspace
from pyro_mcp.engine.engine import Engine
from pyro_mcp.errors import Cancelled, Conflict, InvalidArgument, NotFound, Unsupported

OWN = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C", "PATH": os.environ["PATH"]}
PUBLISHING = 'network_policy = "egress+published-ports"\n'


def git(root: Path, *words: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    return subprocess.run(
        ["git", *identity, *words], cwd=root, env=OWN, check=True, capture_output=True, text=True
    ).stdout


class Lab:
    def __init__(self, engine: Engine, root: Path) -> None:
        self.engine, self.root = engine, root
        self.recorder = CallRecorder(engine)

    def write(self, text: str) -> None:
        (self.root / "pyro.toml").write_text(text)

    def create(self, **given: Any) -> dict[str, Any]:
        params = {"environment": "debian:12", "mem_mib": 128, "allow_host_compat": True, **given}
        params = {"git": True, "seed_path": str(self.root), **params}
        self.recorder = CallRecorder(self.engine)
        left = {name: value for name, value in params.items() if value is not None}
        return workspace.create_workspace.answer(self.recorder.call, left)

    def show(self, **given: Any) -> dict[str, Any]:
        return project.show_project.answer(self.recorder.call, {"path": str(self.root), **given})

    def trust(self, **given: Any) -> None:
        shown = self.show(**given)
        params = {"path": str(self.root), **given, "sha256": shown["sha256"]}
        project.trust_project.answer(self.recorder.call, params)

    def sh(self, made: dict[str, Any], line: str) -> str:
        params = {"workspace_id": made["workspace_id"], "command": line}
        return str(workspace_exec.exec_workspace.answer(self.recorder.call, params)["stdout"])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    root = tmp_path / "repo"
    (root / "src").mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    (root / "src" / "app").write_text("one\n")
    (root / ".gitignore").write_text("*.log\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    (root / "noise.log").write_text("x")
    engine = engine_at(tmp_path / "state")
    yield Lab(engine, root)
    for row in engine.registry.rows():
        engine.lifecycle.delete(row.workspace_id)
    assert list(processes_of(engine.settings.state_dir)) == []
    assert list((engine.settings.state_dir / "workspaces").glob("*")) == []
    engine.close()


def test_a_workspace_says_where_it_came_from(lab: Lab) -> None:
    made = lab.create(seed_path=str(lab.root / "src"))
    seed = engine_status(lab, made)["workspace_seed"]
    assert (seed["mode"], seed["seed_path"], seed["branch"]) == ("git", str(lab.root), "main")
    assert seed["head"] == git(lab.root, "rev-parse", "HEAD").strip()
    assert lab.sh(made, "ls -A | sort") == ".git\n.gitignore\nsrc\n"
    assert made["project"] is None
    cloned = lab.create(git=None, seed_path=None, repo_url=f"file://{lab.root}")
    seed = engine_status(lab, cloned)["workspace_seed"]
    assert (seed["mode"], seed["seed_path"], seed["repo_url"]) == ("git", None, f"file://{lab.root}")
    assert seed["branch"] == "main"


def engine_status(lab: Lab, made: dict[str, Any]) -> dict[str, Any]:
    return workspace.status_workspace.answer(lab.recorder.call, {"workspace_id": made["workspace_id"]})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"repo_url": "https://example.com/x"}, "two things: seed_path and repo_url"),
        ({"empty": True}, "two things: seed_path and empty"),
        ({"seed_path": None}, "no path says which"),
        ({"seed_path": "relative"}, "not absolute"),
        ({"git": None, "repo_ref": "x"}, "there is no repo_url"),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, Any], words: str, lab: Lab) -> None:
    with pytest.raises(InvalidArgument, match=words):
        lab.create(**given)


def test_a_path_without_a_checkout_is_told_and_leaves_nothing(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cannot find a git checkout"):
        lab.create(seed_path=str(tmp_path))
    assert lab.engine.registry.rows() == []


# -- pyro.toml


def test_what_is_given_wins_over_the_file_and_the_file_over_defaults(lab: Lab) -> None:
    lab.write("scratch_mib = 256\nttl_seconds = 600\nmem_mib = 512\n")
    made = lab.create(ttl_seconds=900)
    assert (made["mem_mib"], made["ttl_seconds"]) == (128, 900)
    assert lab.engine.registry.find(made["workspace_id"]).scratch_mib == 256
    assert made["project"]["applied"] == ["scratch_mib"]
    assert made["project"]["left_out"] == []


def test_a_file_counts_for_projects_only(lab: Lab) -> None:
    lab.write("scratch_mib = 256\n")
    assert lab.create(git=None)["project"] is None
    assert lab.create(git=None, seed_path=None)["project"] is None
    assert lab.create(git=None, project_file=True)["project"]["applied"] == ["scratch_mib"]


def test_what_widens_is_left_out_until_a_person_has_agreed_to_these_bytes(lab: Lab) -> None:
    lab.write(f'{PUBLISHING}ttl_seconds = 999999\nscratch_mib = 256\n[services.web]\ncommand = "sleep 60"\n')
    made = lab.create()
    assert (made["network_policy"], made["ttl_seconds"]) == ("off", 86_400)
    left = made["project"]["left_out"]
    assert left[:2] == ["ttl_seconds = 999999 (default 86400)", "network_policy = egress+published-ports"]
    assert f"`pyro project trust {lab.root}`" in made["project"]["hint"]
    assert any("left out" in notice for notice in lab.recorder.notices)
    assert not lab.show()["trusted"]
    lab.trust()
    assert lab.show()["trusted"]
    made = lab.create()
    assert (made["network_policy"], made["ttl_seconds"]) == ("egress+published-ports", 999_999)
    assert made["project"]["left_out"] == []
    # Whoever wants less gets less.
    assert lab.create(network_policy="off")["network_policy"] == "off"
    # One byte more, by whatever hand, and it is another file.
    lab.write((lab.root / "pyro.toml").read_text() + "\n")
    assert lab.create()["network_policy"] == "off"
    assert (lab.engine.settings.state_dir / "trusted-projects.json").stat().st_mode & 0o777 == 0o600


def test_narrowing_counts_without_consent_and_has_no_meaning_without_a_network(lab: Lab) -> None:
    lab.write('network_policy = "egress"\nallow_hosts = ["example.com"]\nhost_ca = false\n')
    assert lab.create()["allow_hosts"] is None
    # This driver cannot narrow, and so shows that it was asked to, though nobody has agreed to the file.
    with pytest.raises(Unsupported, match="cannot narrow the network to host names"):
        lab.create(network_policy="egress")
    lab.trust()
    assert lab.create(network_policy="off")["allow_hosts"] is None


def test_trust_is_for_what_was_shown(lab: Lab) -> None:
    lab.write(PUBLISHING)
    shown = lab.show()["sha256"]
    lab.write(PUBLISHING + "host_ca = true\n")
    with pytest.raises(Conflict, match="it changed since it was shown"):
        project.trust_project.answer(lab.recorder.call, {"path": str(lab.root), "sha256": shown})
    (lab.root / "pyro.toml").unlink()
    with pytest.raises(NotFound):
        project.trust_project.answer(lab.recorder.call, {"path": str(lab.root), "sha256": shown})


def test_of_a_remote_repository_the_commit_counts_and_not_what_lies_beside_it(lab: Lab) -> None:
    lab.write("scratch_mib = 256\n" + PUBLISHING)
    remote = {"git": None, "seed_path": None, "repo_url": f"file://{lab.root}"}
    assert lab.create(**remote)["project"] is None
    git(lab.root, "add", ".")
    git(lab.root, "commit", "-qm", "file")
    remote["repo_ref"] = git(lab.root, "rev-parse", "HEAD").strip()
    made = lab.create(**remote)
    assert made["project"]["applied"] == ["scratch_mib"]
    command = f"pyro project trust --repo-url file://{lab.root} --repo-ref {remote['repo_ref']}"
    assert command in made["project"]["hint"]
    lab.trust(repo_url=remote["repo_url"], repo_ref=remote["repo_ref"])
    assert lab.create(**remote)["network_policy"] == "egress+published-ports"
    assert lab.create()["network_policy"] == "off", "the checkout is another project"


def test_a_wrong_file_stops_the_creation_before_anything_is_made(lab: Lab) -> None:
    lab.write("memory = 1\n")
    with pytest.raises(InvalidArgument, match="unknown key memory"):
        lab.create()
    assert lab.engine.registry.rows() == []


# -- set-up and services


def test_on_this_host_without_isolation_nothing_runs_that_nobody_has_agreed_to(lab: Lab) -> None:
    lab.write('setup = ["touch ran"]\n[services.web]\ncommand = "sleep 60"\n')
    made = lab.create()
    assert made["execution_mode"] == "host_compat"
    assert made["project"]["left_out"] == ["set-up and services, which would run on this host without isolation"]
    assert (made["project"]["setup"], made["project"]["services"], made["command_count"]) == ([], [], 0)
    assert "ran" not in lab.sh(made, "ls")


def test_set_up_runs_in_order_and_services_start(lab: Lab) -> None:
    lab.write(
        'setup = ["echo one > log", "echo two >> log; echo said"]\n'
        '[services.web]\ncommand = "sleep 60"\n[services.bad]\ncommand = "exit 3"\n'
    )
    lab.trust()
    made = lab.create()
    applied = made["project"]
    assert [(one["exit_code"], one["output"]) for one in applied["setup"]] == [(0, ""), (0, "said\n")]
    assert not applied["setup_failed"]
    assert {one["service_name"]: one["state"] for one in applied["services"]} == {"web": "running", "bad": "failed"}
    assert lab.sh(made, "cat log") == "one\ntwo\n"
    assert lab.recorder.output == {1: b"one\ntwo\n", 2: b""}, "only what was asked for is passed on"
    assert made["running_service_count"] == 1
    assert made["command_count"] == 2


def test_set_up_that_fails_is_told_with_its_output_and_leaves_the_workspace(lab: Lab) -> None:
    lab.write('setup = ["true", "echo why >&2; exit 7", "touch never"]\n[services.web]\ncommand = "sleep 60"\n')
    lab.trust()
    made = lab.create()
    applied = made["project"]
    assert applied["setup_failed"]
    assert [one["exit_code"] for one in applied["setup"]] == [0, 7]
    assert applied["setup"][-1]["output"] == "why\n"
    assert applied["services"] == []
    assert any("ended with 7" in notice for notice in lab.recorder.notices)
    assert lab.sh(made, "ls never 2>&1 || true").count("No such file") == 1


def test_set_up_that_is_cancelled_leaves_nothing(lab: Lab) -> None:
    lab.write('setup = ["sleep 300"]\n')
    lab.trust()
    call = CallRecorder(lab.engine).call

    def report(message: str, fraction: float | None) -> None:
        if message.startswith("set-up 1 of 1"):
            call.cancel()

    call.report = report
    params = {"environment": "debian:12", "seed_path": str(lab.root), "git": True, "allow_host_compat": True}
    with pytest.raises(Cancelled):
        workspace.create_workspace.answer(call, params)
    assert lab.engine.registry.rows() == []


def test_ports_that_nobody_has_agreed_to_are_not_published(lab: Lab) -> None:
    lab.write(f'{PUBLISHING}[services.web]\ncommand = "sleep 60"\npublished_ports = [8000]\n')
    made = lab.create()
    assert any("services.web.published_ports = [8000]" in line for line in made["project"]["left_out"])
    lab.trust()
    made = lab.create(network_policy="off")
    (service,) = made["project"]["services"]
    assert service["state"] is None
    assert "network policy" in service["reason"] or "network_policy" in service["reason"]


def test_show_is_of_the_whole_checkout(lab: Lab) -> None:
    lab.write("mem_mib = 256\n")
    shown = project.show_project.answer(lab.recorder.call, {"path": str(lab.root / "src")})
    assert (shown["path"], shown["trusted"], shown["widens"]) == (str(lab.root), False, [])
    (lab.root / "pyro.toml").unlink()
    assert lab.show()["file"] is None
