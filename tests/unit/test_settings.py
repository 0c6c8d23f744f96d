"""Settings: file < environment < flag, every value checked, every complaint naming its origin."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyro_mcp import settings as module
from pyro_mcp.errors import InvalidArgument
from pyro_mcp.settings import Settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "SYSTEM_CONFIG", tmp_path / "etc.toml")
    (tmp_path / ".config/pyro").mkdir(parents=True)
    return tmp_path


def test_defaults(home: Path) -> None:
    found = Settings.load({"HOME": str(home)})
    assert found.state_dir == home / ".local/state/pyro"
    assert found.cache_dir == home / ".cache/pyro"
    assert found.require_isolation is None
    assert found.idle_seconds == 300
    assert found.pool_size is None
    assert found.memory_limit_mib >= 1024


def test_xdg_directories_count_when_absolute(home: Path) -> None:
    environ = {"HOME": str(home), "XDG_CACHE_HOME": "/elsewhere", "XDG_STATE_HOME": "relative"}
    found = Settings.load(environ)
    assert found.cache_dir == Path("/elsewhere/pyro")
    assert found.state_dir == home / ".local/state/pyro"


def test_later_sources_win(home: Path) -> None:
    environ = {"HOME": str(home)}
    (home / "etc.toml").write_text("max_machines = 1")
    assert Settings.load(environ).max_machines == 1
    (home / ".config/pyro/config.toml").write_text('max_machines = 2\nstate_dir = "~/x"')
    assert Settings.load(environ).max_machines == 2
    environ["PYRO_MAX_MACHINES"] = "3"
    assert Settings.load(environ).max_machines == 3
    assert Settings.load(environ, max_machines=4, idle_seconds=None).max_machines == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_MACHINES", "0"),
        ("MAX_MACHINES", "-1"),
        ("MAX_MACHINES", "many"),
        ("MAX_MACHINES", "9" * 30),
        ("POOL_SIZE", "-1"),
        ("POOL_SIZE", "17"),
        ("POOL_SIZE", "auto"),
        ("IDLE_SECONDS", "nan"),
        ("IDLE_SECONDS", "inf"),
        ("IDLE_SECONDS", "-1"),
        ("REQUIRE_ISOLATION", "magic"),
        ("MEMORY_LIMIT_MIB", "1.5"),
        ("STATE_DIR", "a\0b"),
    ],
)
def test_a_bad_value_is_named_with_its_origin(home: Path, name: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{name.lower()}=.* from the environment") as caught:
        Settings.load({"HOME": str(home), f"PYRO_{name}": value})
    assert "not " in caught.value.message
    assert "literal" not in caught.value.message


@pytest.mark.parametrize("text", ["max_machines = ", "\xff", "colour = 1", "max_machines = true", "max_machines = [1]"])
def test_a_bad_file_is_named(home: Path, text: str) -> None:
    path = home / ".config/pyro/config.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidArgument) as caught:
        Settings.load({"HOME": str(home)})
    assert str(path) in str(caught.value)


def test_an_empty_variable_counts_as_absent(home: Path) -> None:
    assert Settings.load({"HOME": str(home), "PYRO_REQUIRE_ISOLATION": ""}).require_isolation is None


def test_a_child_loads_the_same_settings(home: Path) -> None:
    found = Settings.load({"HOME": str(home), "PYRO_REQUIRE_ISOLATION": "kvm"}, state_dir="rel", idle_seconds=1.5)
    assert found.state_dir.is_absolute()
    assert Settings.load({"HOME": "/other", **found.child_environ()}) == found
