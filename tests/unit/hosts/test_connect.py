"""An entry is written, mended and removed on every host, and nothing else of its file changes. The hosts' programs are
stand-ins that behave as the real ones were seen to; `make test-hosts` drives those."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hostlab import where, wish

from pyro_mcp.errors import Conflict, InvalidArgument, MissingDependency, NotFound, PyroError
from pyro_mcp.hosts import catalog
from pyro_mcp.hosts.configfile import Unreadable
from pyro_mcp.hosts.connect import connect, disconnect, put_into, repair
from pyro_mcp.hosts.contract import EntryRefused, server_of
from pyro_mcp.hosts.doctor import examine

OTHERS = {
    "claude-code": '{"numStartups": 3, "mcpServers": {"other": {"command": "x", "env": {"KEY": "s3cr3t"}}}, "z": [1]}',
    "codex": '# mine\nmodel = "x" # why\n\n[mcp_servers.other]\ncommand = "x" # theirs\nenv = { KEY = "s3cr3t" }\n',
    "opencode": '{\n  // mine\n  "mcp": {\n    "other": { "type": "local", "command": ["x"] }, // s3cr3t\n  },\n}\n',
}


def entry(lab: SimpleNamespace, scope: str = "user", name: str = "pyro") -> Any:
    return lab.host().find(scope, name).entry


def others(lab: SimpleNamespace) -> Any:
    """All that is not pyro's, comments included."""
    host = lab.host()
    text = lab.file.read_text()
    left = host.format.drop(text, "pyro") if "pyro" in host.format.entries(text) else text
    if lab.name == "claude-code":
        return {key: value for key, value in json.loads(left).items() if key != "machineID"}
    return [line for line in left.splitlines() if line.strip()]


def test_connect_writes_once_and_disconnect_takes_it_back(lab: SimpleNamespace) -> None:
    lab.file.write_text(OTHERS[lab.name])
    before = others(lab)
    change = connect(lab.host(), None, wish("--profile", "workspace-full"))
    assert (change.action, change.scope, change.path) == ("added", "user", str(lab.file))
    found = server_of(entry(lab))
    assert found is not None
    assert [found.command, *found.args] == change.command
    assert change.command[-4:] == ["mcp", "serve", "--profile", "workspace-full"]
    assert os.path.isabs(change.command[0])
    assert "workspace-full" in change.diff
    assert "s3cr3t" not in change.diff
    assert others(lab) == before
    text = lab.file.read_bytes()
    assert connect(lab.host(), None, wish("--profile", "workspace-full")).action == "unchanged"
    assert lab.file.read_bytes() == text
    assert disconnect(lab.host(), None, "pyro", dry_run=False)[0].action == "removed"
    assert entry(lab) is None
    assert disconnect(lab.host(), None, "pyro", dry_run=False)[0].action == "absent"
    assert entry(lab, name="other") is not None


def test_a_missing_file_is_made(lab: SimpleNamespace) -> None:
    assert connect(lab.host(), "user", wish()).action == "added"
    assert stat.S_IMODE(lab.file.stat().st_mode) & 0o077 == 0 or lab.name == "claude-code"
    assert connect(lab.host(), "user", wish("--profile", "vm-run")).action == "updated"
    assert "vm-run" in json.dumps(entry(lab))


def test_codex_waits_for_it_and_gives_it_time(home: Path) -> None:
    connect(catalog.host("codex", where()), None, wish())
    text = (home / ".codex" / "config.toml").read_text()
    for line in ("required = true", "startup_timeout_sec = 30", "tool_timeout_sec = 3600"):
        assert f"\n{line}\n" in text


def test_a_dry_run_shows_and_changes_nothing(lab: SimpleNamespace) -> None:
    lab.file.write_text(OTHERS[lab.name])
    change = connect(lab.host(), None, wish(dry_run=True))
    assert change.dry_run
    assert "serve" in change.diff
    assert lab.file.read_text() == OTHERS[lab.name]
    connect(lab.host(), None, wish())
    text = lab.file.read_text()
    assert disconnect(lab.host(), None, "pyro", dry_run=True)[0].diff
    damage(lab, "/gone/pyro")
    damaged = lab.file.read_text()
    assert repair(lab.host(), None, wish(keep=True, dry_run=True))[0].diff
    assert lab.file.read_text() == damaged != text


def damage(lab: SimpleNamespace, command: str) -> None:
    text = lab.file.read_text()
    launcher = wish().launcher.command
    assert launcher in text
    lab.file.write_text(text.replace(launcher, command).replace("required = true", "required = false"))


def test_repair_mends_and_keeps_options_and_what_a_person_added(lab: SimpleNamespace) -> None:
    connect(lab.host(), None, wish("--profile", "workspace-full"))
    key = "environment" if lab.name == "opencode" else "env"
    host = lab.host()
    host.change(host.find("user", "pyro"), "pyro", {**entry(lab), key: {"MINE": "1"}})
    whole = entry(lab)
    damage(lab, "/gone/pyro")
    assert entry(lab) != whole
    (change,) = repair(lab.host(), None, wish(keep=True))
    assert change.action == "updated"
    assert entry(lab) == whole
    assert repair(lab.host(), None, wish(keep=True))[0].action == "unchanged"
    assert repair(lab.host(), None, wish("--profile", "vm-run"))[0].action == "updated"
    assert "vm-run" in json.dumps(entry(lab))


NARROW = ("--profile", "vm-run", "--no-project-source", "--state-dir", "/s", "--cache-dir", "/c")


def written(lab: SimpleNamespace, words: list[str]) -> None:
    """The entry at the user's scope, with other words after the program."""
    command = wish().launcher.command
    changed = {"command": [command, *words]} if lab.name == "opencode" else {"command": command, "args": words}
    lab.file.write_text(lab.host().format.put(lab.file.read_text(), "pyro", {**entry(lab), **changed}))


@pytest.mark.parametrize(
    "words",
    [
        ["mcp", "server", *NARROW],
        ["mcp", *NARROW],
        ["srv", *NARROW],
        [*NARROW],
        [*NARROW, "mcp", "serve"],
        ["pyro", "mcp", "serve", *NARROW],
        [f"mcp serve {' '.join(NARROW)}"],
    ],
)
def test_repair_keeps_the_options_wherever_the_damage_is(lab: SimpleNamespace, words: list[str]) -> None:
    connect(lab.host(), None, wish(*NARROW))
    whole = entry(lab)
    written(lab, words)
    assert repair(lab.host(), None, wish(keep=True))[0].action == "updated"
    assert entry(lab) == whole


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["mcp", "serve", "--profile", "vmrun", "--no-project-source"], "vmrun"),
        (["mcp", "serve", "--no-such-option"], "--no-such-option"),
        (["mcp", "serve", "-profile", "vm-run"], "-profile"),
        (["mcp", "serve", "vm-run"], "vm-run"),
        (["mcp", "start", "--profile", "vm-run"], "start"),
        (["mcp", "--serve", "--profile", "vm-run"], "--serve"),
        (["--profile", "vmrun", "mcp", "serve"], "vmrun"),
        (["mcp", "serve", "--profile"], "--profile"),
    ],
)
def test_repair_leaves_out_no_option_that_it_does_not_understand(
    lab: SimpleNamespace, words: list[str], named: str
) -> None:
    """Without it the server might give more than it was to."""
    connect(lab.host(), None, wish(*NARROW))
    written(lab, words)
    text = lab.file.read_bytes()
    with pytest.raises(InvalidArgument, match=f"cannot keep the options of the entry 'pyro'.*{named}") as caught:
        repair(lab.host(), None, wish(keep=True))
    assert "pyro host connect" in str(caught.value.hint)
    assert lab.file.read_bytes() == text
    connect(lab.host(), None, wish("--profile", "vm-run"))
    assert repair(lab.host(), None, wish(keep=True))[0].action == "unchanged"


@pytest.mark.parametrize(
    "damaged",
    [
        "/bin/pyro mcp serve --port 3",
        {"args": ["mcp", "serve", "--profile", 3]},
        {"command": "pyro", "args": "mcp serve --profile=vmrun"},
        {"command": ["pyro", "mcp", "serve"], "args": ["--profile", "vmrun"]},
        {"command": "pyro mcp serve --profile vmrun"},
        {"command": "uvx", "args": ["--from", "pyro-mcp", "pyro", "mcp", "serve", "vmrun"]},
        {"command": "docker", "args": ["run", "image", "mcp", "serve", "vmrun"]},
    ],
)
def test_options_are_seen_in_an_entry_of_any_form(home: Path, damaged: Any) -> None:
    with pytest.raises(InvalidArgument, match="cannot keep the options"):
        wish(keep=True).server(damaged)


def test_the_way_out_of_a_refused_repair_works(lab: SimpleNamespace) -> None:
    """For an entry that names pyro no more, `connect` is none."""
    command = {"command": ["box", "--x"]} if lab.name == "opencode" else {"command": "box", "args": ["--x"]}
    lab.file.write_text(lab.host().format.put("", "pyro", {**lab.host().entry(wish().launcher.server(())), **command}))
    with pytest.raises(InvalidArgument, match="--x") as caught:
        repair(lab.host(), None, wish(keep=True))
    assert "`pyro host repair` with all options" in str(caught.value.hint)
    assert repair(lab.host(), None, wish("--profile", "vm-run"))[0].action == "updated"
    assert server_of(entry(lab)) == wish().launcher.server(("--profile", "vm-run"))


def test_when_one_scope_is_refused_none_is_mended(home: Path) -> None:
    host = catalog.host("claude-code", where())
    connect(host, "user", wish())
    connect(host, "project", wish())
    user, project = home / ".claude.json", Path.cwd() / ".mcp.json"
    user.write_text(user.read_text().replace('"serve"', '"srv"'))
    project.write_text(project.read_text().replace('"serve"', '"serve", "--no-such-option"'))
    before = user.read_bytes()
    with pytest.raises(InvalidArgument, match="--no-such-option"):
        repair(host, None, wish(keep=True))
    assert user.read_bytes() == before


def test_another_programs_own_words_are_no_options(home: Path) -> None:
    for launcher in (
        ["uvx", "--from", "pyro-mcp", "pyro"],
        ["python3", "-m", "pyro_mcp"],
        ["docker", "run", "-i", "x"],
    ):
        present = {"command": launcher[0], "args": [*launcher[1:], "mcp", "serve", "--profile", "vm-run"]}
        assert wish(keep=True).server(present).args[-4:] == ("mcp", "serve", "--profile", "vm-run")


@pytest.mark.parametrize("wrong", ["serve", "kind"])
def test_repair_replaces_what_makes_no_sense(lab: SimpleNamespace, wrong: str) -> None:
    connect(lab.host(), None, wish())
    whole = entry(lab)
    text = lab.file.read_text()
    broken = {
        "serve": lambda: text.replace('"serve"', '"srv"'),
        "kind": lambda: lab.host().format.put(text, "pyro", {"url": "http://127.0.0.1:1"}),
    }[wrong]()
    assert broken != text
    lab.file.write_text(broken)
    (change,) = repair(lab.host(), None, wish(keep=True))
    assert change.action == "updated"
    assert entry(lab) == whole


def test_repair_writes_what_is_missing(lab: SimpleNamespace) -> None:
    assert repair(lab.host(), None, wish(keep=True))[0].action == "added"


def test_what_is_not_ours_is_left_alone(lab: SimpleNamespace) -> None:
    text = OTHERS[lab.name].replace("other", "box")
    lab.file.write_text(text)
    with pytest.raises(Conflict, match="does not start pyro"):
        connect(lab.host(), None, wish(name="box"))
    with pytest.raises(Conflict, match="does not start pyro"):
        disconnect(lab.host(), None, "box", dry_run=False)
    assert lab.file.read_text() == text


def test_scopes_are_apart_and_disconnect_asks_which(lab: SimpleNamespace, home: Path) -> None:
    if lab.name == "codex":
        lab.file.write_text(f'[projects."{Path.cwd()}"]\ntrust_level = "trusted"\n')
    change = connect(lab.host(), "project", wish())
    assert change.path == str(lab.project)
    assert (entry(lab, "user"), lab.project.exists()) == (None, True)
    again = connect(lab.host(), "user", wish())
    assert "also has an entry 'pyro' at scope project" in " ".join(again.notes)
    with pytest.raises(Conflict, match="user, project"):
        disconnect(lab.host(), None, "pyro", dry_run=False)
    disconnect(lab.host(), "project", "pyro", dry_run=False)
    assert entry(lab, "project") is None
    assert entry(lab, "user") is not None


def test_claudes_local_scope_belongs_to_the_checkout(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "project" / ".git").mkdir()
    (home / "project" / "below").mkdir()
    connect(catalog.host("claude-code", where()), "local", wish())
    monkeypatch.chdir(home / "project" / "below")
    host = catalog.host("claude-code", where())
    assert host.find("local", "pyro").entry is not None
    assert disconnect(host, None, "pyro", dry_run=False)[0].scope == "local"
    assert host.find("local", "pyro").entry is None


def test_codex_reads_a_projects_file_only_where_it_is_trusted(home: Path) -> None:
    with pytest.raises(PyroError, match="only in a project that it trusts"):
        connect(catalog.host("codex", where()), "project", wish())
    assert not (Path.cwd() / ".codex" / "config.toml").exists()


@pytest.mark.parametrize("content", ["{", '{"mcpServers": 1, "mcp": 1, "a": [}', "\ufffd = ["])
def test_a_broken_file_is_named_and_left_alone(lab: SimpleNamespace, content: str) -> None:
    lab.file.write_text(content)
    for act in (
        lambda: connect(lab.host(), None, wish()),
        lambda: repair(lab.host(), None, wish(keep=True)),
        lambda: disconnect(lab.host(), None, "pyro", dry_run=False),
    ):
        with pytest.raises(Unreadable, match=str(lab.file)):
            act()
    assert lab.file.read_text() == content


def test_what_the_host_would_not_read_is_taken_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults beside our entry that only the host sees."""
    codex, opencode = home / ".codex" / "config.toml", home / ".config" / "opencode" / "opencode.json"
    texts = {codex: "[mcp_servers.other]\ncommand = 3\n", opencode: '{"mcp": {"other": {"command": "x"}}}'}
    for file, name in ((codex, "codex"), (opencode, "opencode")):
        file.parent.mkdir(parents=True)
        file.write_text(texts[file])
        with pytest.raises(EntryRefused, match="would not read it") as caught:
            connect(catalog.host(name, where()), None, wish())
        assert "other" in caught.value.message
        assert not {"\x1b", "<unknown>"} & set(re.findall(r"\x1b|<unknown>", caught.value.message))
        assert file.read_text() == texts[file]
    absent = home / "codex-home"
    absent.mkdir()
    monkeypatch.setenv("CODEX_HOME", str(absent))
    Path("opencode.jsonc").write_text("{} nonsense")
    with pytest.raises(PyroError):
        connect(catalog.host("opencode", where()), "project", wish())


@pytest.mark.parametrize("scope", ["user", "project", "local"])
def test_when_claude_fails_the_file_is_what_it_was(home: Path, monkeypatch: pytest.MonkeyPatch, scope: Any) -> None:
    """Put back by us: the program that just failed may fail again."""
    host = catalog.host("claude-code", where())
    connect(host, scope, wish("--profile", "vm-run"))
    file = host.find(scope, "pyro").file
    file.path.write_text(file.path.read_text().replace("{", "{\n\n", 1))
    before = file.path.read_bytes()
    monkeypatch.setenv("STANDIN_REFUSES", "pyro")
    with pytest.raises(EntryRefused, match="expected string"):
        connect(catalog.host("claude-code", where()), scope, wish())
    assert file.path.read_bytes() == before


@pytest.mark.parametrize("scope", ["user", "project", "local"])
def test_when_claude_fails_what_it_wrote_meanwhile_stays(
    home: Path, monkeypatch: pytest.MonkeyPatch, scope: Any
) -> None:
    host = catalog.host("claude-code", where())
    connect(host, scope, wish("--profile", "vm-run"))
    found = host.find(scope, "pyro")

    def fails(*_: Any) -> None:
        found.file.path.write_text(json.dumps({"meanwhile": 1, **json.loads(found.file.path.read_text())}))
        raise EntryRefused("cannot run")

    monkeypatch.setattr(host, "_add", fails)
    with pytest.raises(EntryRefused, match="cannot run"):
        connect(host, scope, wish())
    assert host.find(scope, "pyro").entry == found.entry
    assert json.loads(found.file.path.read_text())["meanwhile"] == 1


def test_an_entry_that_cannot_be_put_back_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = catalog.host("claude-code", where())
    connect(host, None, wish("--profile", "vm-run"))
    path = home / ".claude.json"

    def fails(*_: Any) -> None:
        path.write_text("{ half")
        raise EntryRefused("cannot run")

    monkeypatch.setattr(host, "_add", fails)
    with pytest.raises(EntryRefused, match="cannot put the entry back") as caught:
        connect(host, None, wish())
    assert "vm-run" in str(caught.value.hint)


def test_an_entrys_keys_are_in_no_process_list(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`claude mcp add-json` gets the entry on standard input."""
    called: list[list[str]] = []
    from pyro_mcp.hosts import claude_code

    real = claude_code.run
    monkeypatch.setattr(claude_code, "run", lambda argv, **rest: called.append(argv) or real(argv, **rest))
    (home / ".claude.json").write_text('{"mcpServers": {"pyro": {"command": "pyro", "env": {"K": "s3cr3t"}}}}')
    connect(catalog.host("claude-code", where()), None, wish())
    assert len(called) == 2
    assert "s3cr3t" not in str(called)
    assert catalog.host("claude-code", where()).find("user", "pyro").entry["env"] == {"K": "s3cr3t"}


def test_links_stay(lab: SimpleNamespace, home: Path) -> None:
    real = home / "dotfiles"
    real.mkdir()
    (real / "config").write_text(OTHERS[lab.name])
    lab.file.symlink_to(real / "config")
    connect(lab.host(), None, wish())
    assert lab.file.is_symlink()
    assert "serve" in (real / "config").read_text()


@pytest.mark.parametrize("of", ["file", "directory"])
def test_a_link_that_leads_nowhere_is_told_and_nothing_is_made(lab: SimpleNamespace, home: Path, of: str) -> None:
    link = lab.file if of == "file" else lab.file.parent
    if of == "directory" and lab.name != "claude-code":
        link.rmdir()
    elif of == "directory":
        pytest.skip("Claude's file lies in the home directory itself")
    link.symlink_to(home / "unmounted" / "dotfiles")
    for act in (lambda: connect(lab.host(), None, wish()), lambda: repair(lab.host(), None, wish(keep=True))):
        with pytest.raises(Conflict, match=f"is a link to {home}/unmounted/dotfiles, which is not there"):
            act()
    assert link.is_symlink()
    assert not (home / "unmounted").exists()
    assert examine(lab.host(), wish()).status == "unreadable-config"


def test_a_projects_link_leads_nowhere_else(lab: SimpleNamespace, home: Path) -> None:
    outside = home / "outside"
    outside.write_text("{}" if lab.name != "codex" else "")
    lab.project.parent.mkdir(exist_ok=True)
    lab.project.symlink_to(outside)
    with pytest.raises(Conflict, match="leads out of the project"):
        connect(lab.host(), "project", wish())
    assert outside.read_text() in ("{}", "")


def test_opencodes_two_files(home: Path) -> None:
    directory = home / ".config" / "opencode"
    directory.mkdir(parents=True)
    (directory / "opencode.json").write_text('{"mcp": {}}')
    (directory / "opencode.jsonc").write_text("{} // mine\n")
    change = connect(catalog.host("opencode", where()), None, wish())
    assert change.path.endswith(".jsonc")
    assert (directory / "opencode.json").read_text() == '{"mcp": {}}'


def test_opencodes_entry_in_both_files_is_removed_from_both(home: Path) -> None:
    directory = home / ".config" / "opencode"
    host = catalog.host("opencode", where())
    connect(host, None, wish())
    text = (directory / "opencode.json").read_text()
    second = directory / "opencode.jsonc"
    second.write_text(text)
    report = examine(host, wish())
    assert report.status == "duplicate-scope"
    assert f"{second}, {directory / 'opencode.json'}; {second} wins" in report.problems[0].detail
    changes = disconnect(host, None, "pyro", dry_run=True)
    assert [(one.action, one.path[-6:]) for one in changes] == [("removed", ".jsonc"), ("removed", "e.json")]
    assert disconnect(host, None, "pyro", dry_run=False) == [replace(one, dry_run=False) for one in changes]
    assert "serve" not in second.read_text() + (directory / "opencode.json").read_text()
    assert (host.find("user", "pyro").entry, host.hidden("user", "pyro")) == (None, [])


def test_of_opencodes_two_files_one_that_is_not_ours_keeps_both(home: Path) -> None:
    directory = home / ".config" / "opencode"
    host = catalog.host("opencode", where())
    connect(host, None, wish())
    other = directory / "opencode.jsonc"
    other.symlink_to("opencode.json")
    assert host.hidden("user", "pyro") == []
    other.unlink()
    other.write_text((directory / "opencode.json").read_text())
    theirs = host.format.put("", "pyro", {"type": "local", "command": ["x"]})
    (directory / "opencode.json").write_text(theirs)
    with pytest.raises(Conflict, match=r"opencode\.json: it does not start pyro"):
        disconnect(host, None, "pyro", dry_run=False)
    assert host.find("user", "pyro", path=other).entry is not None
    assert (directory / "opencode.json").read_text() == theirs


def test_without_the_program_nothing_is_written(lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(MissingDependency, match="no program"):
        connect(lab.host(), None, wish())
    assert not lab.file.exists()
    for change in (connect(lab.host(), None, wish(dry_run=True)), *repair(lab.host(), None, wish(dry_run=True))):
        assert (change.action, change.dry_run) == ("added", True)
        assert "serve" in change.diff
        assert any("no program" in note for note in change.notes)
    assert not lab.file.exists()


def test_codex_home_must_exist(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEX_HOME", str(home / "nowhere"))
    with pytest.raises(NotFound, match="CODEX_HOME"):
        connect(catalog.host("codex", where()), None, wish())


@pytest.mark.parametrize("name", ["", "a b", "a.b", "x" * 65, "-s\n"])
def test_a_bad_name_is_refused_with_the_rule(home: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="letters, digits"):
        wish(name=name)


def test_unknown_hosts_and_scopes(home: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        catalog.host("cursor", where())
    assert "print-config cursor" in str(caught.value.hint)
    with pytest.raises(InvalidArgument, match="scope 'local'"):
        connect(catalog.host("codex", where()), "local", wish())


@pytest.mark.parametrize("name", list(catalog.PRINTED))
def test_every_hosts_entry_can_be_put_into_a_file_beside_others(home: Path, name: str) -> None:
    form = catalog.printed(name)
    path = home / "given"
    change = put_into(path, name, form, wish())
    assert change.action == "added"
    assert server_of(form.format.entries(path.read_text())["pyro"]) is not None
    assert put_into(path, name, form, wish()).action == "unchanged"
    put_into(path, name, form, wish(name="second"))
    assert list(form.format.entries(path.read_text())) == ["pyro", "second"]
