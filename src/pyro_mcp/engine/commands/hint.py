"""Hints about failed commands: what a person or a model would look for in vain.

The words of a guest decide whether there is one, and never what it says: it names a parameter or an environment of
ours. So a guest that lies makes somebody read a line that does not help, and no more.
"""

from __future__ import annotations

import re

from pyro_mcp.environments.catalog import CATALOG

_LOOKED_AT = 64 * 1024
"""Characters of the end of each stream: what failed is said last."""
_UNREACHABLE = re.compile(
    r"(?i)could(?: not|n't) resolve|temporary failure in name resolution|temporary failure resolving"
    r"|name or service not known|no address associated with hostname|unable to resolve host address"
    r"|failed to lookup address information|getaddrinfo (?:EAI_AGAIN|ENOTFOUND)|\bno such host\b|lookup \S+ on \S+:53"
    r"|network is unreachable|unknown host"
)
_GOES_ON = "Temporary failure resolving '"
"""`apt-get update` succeeds without a network, and what comes after it fails."""
_NOT_FOUND = re.compile(
    r"(?:^|[\s'`‘:]|/bin/)([A-Za-z0-9][A-Za-z0-9.+_-]{0,31})['’]?: (?:command not found|not found|No such file)"
)
_ALIASES = {"python": "python3"}


def hint_of(exit_code: int | None, stdout: str, stderr: str, *, environment: str, way_out: str | None) -> str | None:
    """What may help with a command that failed, from what it said. `way_out` says where a machine without a network
    gets one; None for one that has it."""
    said = f"{stdout[-_LOOKED_AT:]}\n{stderr[-_LOOKED_AT:]}"
    if way_out is not None and (_GOES_ON in said or (exit_code and _UNREACHABLE.search(said))):
        return f"this machine has no network; {way_out}"
    return _missing(said, environment) if exit_code else None


def _missing(said: str, environment: str) -> str | None:
    """Which environment has the program that this one lacks."""
    here = CATALOG.get(environment)
    for name in dict.fromkeys(_NOT_FOUND.findall(said)):
        program = _ALIASES.get(name, name)
        if here is not None and program in here.programs:
            if program != name:
                return f"{environment} has it as {program}"
            continue
        having = [recipe.name for recipe in CATALOG.values() if program in recipe.programs]
        if having:
            return (
                f"{environment} has no {name}; {' and '.join(having)} {'has' if len(having) == 1 else 'have'} {program}"
            )
    return None
