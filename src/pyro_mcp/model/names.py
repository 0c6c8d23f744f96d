"""Names: the rules that names and labels follow, in one place and in words."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.count import count_of

SHOWN_MAX = 10
DEFAULT_ENVIRONMENT = "debian:12-build"
"""Where nobody names one, which only a model may leave out."""

WORKSPACE_ID = r"ws-[0-9a-f]{12}"
SNAPSHOT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SNAPSHOT_RULE = "a letter or digit, then up to 63 letters, digits, and . _ -"
BASELINE = "baseline"
NAME_MAX, LABELS_MAX, LABEL_KEY_MAX, LABEL_VALUE_MAX = 64, 32, 64, 256
LABEL_KEY_RULE = "a letter or digit, then up to 63 letters, digits, and . _ / -"
VARIABLE_RULE = "a letter or _, then up to 127 letters, digits and _"
OWN_VARIABLES = ("PYRO_COMMAND", "PYRO_MACHINE", "PYRO_SERVICE")
"""By these the leftovers of a command are known, and on a host (`host_compat`) those of a machine and of a service."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
_WORKSPACE_ID = re.compile(WORKSPACE_ID)


def is_workspace_id(text: str) -> bool:
    """Whether `text` has the form of an id, which no name may have."""
    return _WORKSPACE_ID.fullmatch(text) is not None


def check_name(name: str) -> str:
    """`name` without blanks around it. Raises `InvalidArgument` with the rule it breaks."""
    bare = name.strip()
    rule = f"1 to {NAME_MAX} printable characters on one line"
    if not bare or len(bare) > NAME_MAX or not bare.isprintable():
        raise InvalidArgument(f"cannot name the workspace {name[:80]!r}: a name has {rule}", hint=f"Use {rule}")
    if is_workspace_id(bare):
        raise InvalidArgument(
            f"cannot name the workspace {bare!r}: that is the form of an id", hint="Use a name that no id can have"
        )
    return bare


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """A copy of `labels`. Raises `InvalidArgument` with the rule that one breaks."""
    if len(labels) > LABELS_MAX:
        raise InvalidArgument(f"cannot set {count_of(len(labels), 'label')}: at most {LABELS_MAX} fit")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise InvalidArgument(f"cannot set the label {key[:80]!r}: a key is {LABEL_KEY_RULE}")
        if len(value) > LABEL_VALUE_MAX or (value and not value.isprintable()):
            raise InvalidArgument(
                f"cannot set the label {key!r}: a value is up to {LABEL_VALUE_MAX} printable characters on one line"
            )
    return dict(labels)


def is_variable(name: str) -> bool:
    """Whether an environment variable, or a secret, may be called that: `VARIABLE_RULE`."""
    return _VARIABLE.fullmatch(name) is not None


def check_variables(env: Mapping[str, str] | None) -> dict[str, str]:
    """A copy of `env`. Raises `InvalidArgument` with the rule that a name breaks."""
    for name in env or {}:
        if not is_variable(name):
            raise InvalidArgument(f"cannot set the variable {name[:128]!r}: a name is {VARIABLE_RULE}")
        if name in OWN_VARIABLES:
            raise InvalidArgument(f"cannot set the variable {name}: pyro sets it", hint="Use another name")
    return dict(env or {})


def there_are(known: list[str], none: str = "There are none; create one first") -> str:
    """The hint that lists what can be named instead."""
    more = f" and {len(known) - SHOWN_MAX} more" if len(known) > SHOWN_MAX else ""
    return f"There are: {', '.join(known[:SHOWN_MAX])}{more}" if known else none
