"""One frozen `Settings`: where pyro keeps things and what it may use. The only reader of `os.environ`.

Precedence, lowest first: built-in default < `/etc/pyro/config.toml` < `$XDG_CONFIG_HOME/pyro/config.toml`
< environment variable `PYRO_<NAME>` < keyword given to `Settings.load` (a command-line flag).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pyro_mcp.errors import InvalidArgument

N = TypeVar("N", int, float)

SYSTEM_CONFIG = Path("/etc/pyro/config.toml")
CA_FILE = "/etc/ssl/certs/ca-certificates.crt"
_ISOLATION_TIERS = ("kvm",)


@dataclass(frozen=True)
class Settings:
    """Validated settings. Paths are absolute; sizes are in MiB, times in seconds.

    `pool_size` machines of each kind that was used of late are restored ahead; None is 1 while memory is ample.
    `ca_file` is the bundle of certificates that `--host-ca` hands to a guest; by default what SSL_CERT_FILE names.
    `given` names those that somebody asked for, in whatever way.
    """

    state_dir: Path
    cache_dir: Path
    max_machines: int
    memory_limit_mib: int
    require_isolation: str | None
    idle_seconds: float
    pool_size: int | None
    ca_file: Path
    given: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def ca_named(self) -> bool:
        """Whether somebody named the bundle of certificates, if only for all programs."""
        return self.ca_file != Path(CA_FILE)

    @staticmethod
    def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Settings of this process. Overrides that are None count as not given.

        Raises `InvalidArgument` naming the setting and where it came from.
        """
        environ = os.environ if environ is None else environ
        values = _defaults(environ)
        given: set[str] = set()
        for path in (SYSTEM_CONFIG, _config_home(environ) / "pyro" / "config.toml"):
            given |= _merge(values, _read_config(path), str(path))
        from_environ = {name: environ.get(f"PYRO_{name.upper()}") or None for name in values}
        given |= _merge(values, from_environ, "the environment, as PYRO_*")
        given |= _merge(values, overrides, "the command line")
        return Settings(**values, given=frozenset(given))

    def values(self) -> dict[str, str | None]:
        """Every setting as text, for another process and for comparison."""
        found = {name: getattr(self, name) for name in _PARSERS}
        return {name: None if value is None else str(value) for name, value in found.items()}

    def child_environ(self) -> dict[str, str]:
        """The variables that make a child process load exactly these settings."""
        return {f"PYRO_{name.upper()}": value for name, value in self.values().items() if value is not None}


def host_environ() -> dict[str, str]:
    """A copy of this process's environment, for a child process that needs more than `Settings`."""
    return dict(os.environ)


def given_mcp_token() -> str | None:
    """The token that a server over HTTP asks for, if one is set. It is taken out: no child process needs it."""
    return os.environ.pop("PYRO_MCP_TOKEN", None) or None


def _defaults(environ: Mapping[str, str]) -> dict[str, Any]:
    return {
        "state_dir": _xdg(environ, "XDG_STATE_HOME", ".local/state") / "pyro",
        "cache_dir": _xdg(environ, "XDG_CACHE_HOME", ".cache") / "pyro",
        "max_machines": 64,
        "memory_limit_mib": max(1024, _host_memory_mib() * 3 // 4),
        "require_isolation": None,
        "idle_seconds": 300.0,
        "pool_size": None,
        "ca_file": Path(os.path.abspath(environ.get("SSL_CERT_FILE") or CA_FILE)),
    }


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME") or os.path.expanduser("~"))


def _xdg(environ: Mapping[str, str], name: str, fallback: str) -> Path:
    value = environ.get(name, "")
    return Path(value) if value.startswith("/") else _home(environ) / fallback


def _config_home(environ: Mapping[str, str]) -> Path:
    return _xdg(environ, "XDG_CONFIG_HOME", ".config")


def _host_memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20


def _read_config(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"cannot read settings from {path}: {error}") from error
    import tomllib  # here: most hosts have no file, and the CLI must start fast

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        hint = "Mend or remove the file"
        raise InvalidArgument(f"cannot read settings from {path}: {error}", hint=hint) from error


def _merge(values: dict[str, Any], given: Mapping[str, Any], origin: str) -> set[str]:
    """Put what is given over `values`; None counts as not given. The names of what was."""
    for name, value in given.items():
        if value is None:
            continue
        if name not in values:
            hint = f"Known settings: {', '.join(sorted(values))}"
            raise InvalidArgument(f"cannot use setting {name!r} from {origin}: unknown", hint=hint)
        try:
            values[name] = _PARSERS[name](value)
        except (ValueError, TypeError) as error:
            raise InvalidArgument(f"cannot use setting {name}={value!r} from {origin}: {error}") from error
    return {name for name, value in given.items() if value is not None}


def _path(value: object) -> Path:
    text = os.fspath(value) if isinstance(value, Path) else str(value)
    if not text or "\0" in text:
        raise ValueError("not a path")
    return Path(os.path.abspath(os.path.expanduser(text)))


def _number(kind: type[N], value: object, wrong: N) -> N:
    """The number that `value` is or spells; `wrong` for anything else, so that its reader tells what would be right."""
    if isinstance(value, bool) or not isinstance(value, (int, kind, str)):
        return wrong
    with contextlib.suppress(ValueError):
        return kind(value)
    return wrong


def _count(value: object) -> int:
    number = _number(int, value, 0)
    if not 1 <= number <= 1 << 30:
        raise ValueError("not a whole number from 1 to 1073741824")
    return number


def _seconds(value: object) -> float:
    number = _number(float, value, -1.0)
    if not 0 <= number <= 1e9:
        raise ValueError("not a number of seconds from 0 to 1e9")
    return number


def _pool_size(value: object) -> int:
    number = _number(int, value, -1)
    if not 0 <= number <= 16:
        raise ValueError("not a whole number from 0 to 16")
    return number


def _isolation(value: object) -> str:
    if value not in _ISOLATION_TIERS:
        raise ValueError(f"not one of: {', '.join(_ISOLATION_TIERS)}")
    return str(value)


_PARSERS = {
    "state_dir": _path,
    "cache_dir": _path,
    "max_machines": _count,
    "memory_limit_mib": _count,
    "require_isolation": _isolation,
    "idle_seconds": _seconds,
    "pool_size": _pool_size,
    "ca_file": _path,
}
