"""TOML is changed in place: the entry's own lines, and nothing else."""

from __future__ import annotations

import tomllib

import pytest

from pyro_mcp.errors import Unsupported
from pyro_mcp.hosts.tomlfile import TomlFormat

SERVERS = TomlFormat("mcp_servers")
ENTRY = {"command": "/bin/pyro", "args": ["mcp", "serve"], "required": True}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# mine\nmodel = 'x' # why\n",
        'model = "x"\n\n[projects."/a"]\ntrust_level = "trusted"\n',
        '# a\n[mcp_servers.other]\ncommand = "x" # c\n\n[mcp_servers.other.env]\nA = "1"\n\n[zed]\nb = 1 # last\n',
        '[mcp_servers]\nother = { command = "x" } # inline\n',
        'mcp_servers = { other = { command = "x" } }\n',
        'mcp_servers.other.command = "x" # dotted\n[zed]\nb = 1\n',
        '[mcp_servers.a]\ncommand="1"\n[between]\nx=1\n[mcp_servers.b]\ncommand="2" # apart\n',
        '[mcp_servers.other]\ncommand = "x"\n# the end, without a line end',
    ],
)
def test_an_entry_comes_and_goes_and_everything_else_stays(text: str) -> None:
    before = tomllib.loads(text)
    put = SERVERS.put(text, "pyro", ENTRY)
    assert tomllib.loads(put) == {**before, "mcp_servers": {**before.get("mcp_servers", {}), "pyro": ENTRY}}
    assert comments(put) == comments(text)
    assert SERVERS.put(put, "pyro", ENTRY) == put
    gone = SERVERS.drop(put, "pyro")
    assert tomllib.loads(gone).get("mcp_servers", {}) == before.get("mcp_servers", {})
    assert comments(gone) == comments(text)
    if "mcp_servers" in before:
        assert [line for line in gone.splitlines() if line] == [line for line in text.splitlines() if line]


def comments(text: str) -> list[str]:
    return [line.partition("#")[2].strip() for line in text.splitlines() if "#" in line]


def test_only_what_differs_of_an_entry_is_written() -> None:
    text = '[mcp_servers.pyro] # ours\ncommand = "/bin/pyro" # c\nargs = ["mcp"]\nrequired = 1 # no\nmine = 2\n'
    put = SERVERS.put(text, "pyro", {**ENTRY, "args": ["mcp"], "mine": 2})
    assert put == text.replace("= 1", "= true")


def test_an_entrys_own_tables_stay() -> None:
    text = '[mcp_servers.pyro]\ncommand = "x"\n[mcp_servers.pyro.tools.vm_run]\napproval_mode = "approve"\n'
    kept = tomllib.loads(text)["mcp_servers"]["pyro"]
    put = SERVERS.put(text, "pyro", {**kept, **ENTRY})
    assert tomllib.loads(put)["mcp_servers"]["pyro"] == {**kept, **ENTRY}
    assert tomllib.loads(SERVERS.drop(put, "pyro")).get("mcp_servers", {}) == {}


@pytest.mark.parametrize("text", ["=", "[a]\n[a]\n", 'mcp_servers = "x"', "[[mcp_servers]]\na=1\n"])
def test_what_is_no_table_is_refused(text: str) -> None:
    with pytest.raises((ValueError, Unsupported)):
        SERVERS.put(text, "pyro", ENTRY)


MINE = '[mcp_servers.pyro]\ncommand = "x"\nargs = [\n  "a", # one\n]\n[mcp_servers.pyro.env]\nA = "1"\n'


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        ("a = 1\n", "\n[zed]\nb = 1\n", None),
        ("a = 1\n\n", "\n[zed]\nb = 1\n", "a = 1\n\n[zed]\nb = 1\n"),
        ("a = 1\n\n", "[zed]\nb = 1\n", None),
        ("", "\n# theirs\n\n[zed]\nb = 1\n", "# theirs\n\n[zed]\nb = 1\n"),
        ("[mcp_servers.a]\nx = 1\n", "\n# theirs\n[mcp_servers.b]\nx = 1\n", None),
        ("[[list]]\nx = 1\n\n", "\n\n[[list]]\nx = 2\n", "[[list]]\nx = 1\n\n\n[[list]]\nx = 2\n"),
        ("a = 1\n", "# the end", None),
        ("a = 1\n\n", "", None),
        ("a = '''\n[mcp_servers.pyro]\n'''\n", "\n[zed]\nb = 1\n", None),
    ],
)
def test_what_stands_beside_an_entry_stays_to_the_line(before: str, after: str, left: str | None) -> None:
    assert SERVERS.drop(before + MINE + after, "pyro") == (before + after if left is None else left)


def test_each_part_of_an_entry_goes_wherever_it_stands() -> None:
    text = '[mcp_servers.pyro]\ncommand = "x"\n\n[zed] # z\nb = 1\n\n["mcp_servers" . \'pyro\'.env]\nA = "1"\n'
    assert SERVERS.drop(text, "pyro") == "[zed] # z\nb = 1\n\n"
