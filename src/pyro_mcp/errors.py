"""The one error tree. Codes and exit codes travel on every surface; class names never do.

    PyroError                 internal            70
    ├── InvalidArgument       invalid_argument     2   the caller's input breaks a rule
    ├── NotFound              not_found           66   no such environment, vm, workspace, path
    ├── Conflict              conflict            65   exists already, wrong state, changed meanwhile
    ├── Unsupported           unsupported         69   this host, driver or version cannot do it
    ├── IsolationUnavailable  isolation           68   no guest can boot, and the host is not allowed
    ├── MissingDependency     missing_dependency  72   a program or file on the host is absent
    ├── MachineFailed         machine_failed      71   a guest did not boot, died, or stopped answering
    ├── Capacity              capacity            75   admission control refused; later may work
    ├── DiskFull              disk_full           74   no space left on the host or in the guest
    ├── PermissionDenied      permission          77   the host refuses it to this user
    ├── ProtocolError         protocol            76   a peer broke the wire's rules
    ├── NodeUnavailable       node_unavailable    73   the node did not start or went away
    ├── TimedOut              timeout            124   a deadline of pyro's own passed
    └── Cancelled             cancelled          130   the caller went away or asked to stop

A message reads "cannot <verb> <thing>: <cause>"; the hint says what to do next.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PyroError(Exception):
    """Base of every error pyro raises on purpose."""

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message

    def to_wire(self) -> dict[str, Any]:
        """The error as it travels: `code`, `message` and `hint`."""
        return {"code": self.code, "message": self.message, "hint": self.hint}

    @staticmethod
    def from_wire(payload: dict[str, Any]) -> PyroError:
        """The error a peer reported. An unknown code becomes a plain `PyroError`; fields are bounded."""
        kind = _BY_CODE.get(str(payload.get("code")), PyroError)
        hint = payload.get("hint")
        message = str(payload.get("message") or "the peer gave no reason")
        return kind(message[:4096], hint=str(hint)[:4096] if hint else None)


class InvalidArgument(PyroError):
    code, exit_code = "invalid_argument", 2


class NotFound(PyroError):
    code, exit_code = "not_found", 66


class Conflict(PyroError):
    code, exit_code = "conflict", 65


class Unsupported(PyroError):
    code, exit_code = "unsupported", 69


class IsolationUnavailable(PyroError):
    code, exit_code = "isolation", 68


class MissingDependency(PyroError):
    code, exit_code = "missing_dependency", 72


class MachineFailed(PyroError):
    code, exit_code = "machine_failed", 71


class Capacity(PyroError):
    code, exit_code, retryable = "capacity", 75, True


class DiskFull(PyroError):
    code, exit_code = "disk_full", 74


class PermissionDenied(PyroError):
    code, exit_code = "permission", 77


class ProtocolError(PyroError):
    code, exit_code = "protocol", 76


class NodeUnavailable(PyroError):
    code, exit_code, retryable = "node_unavailable", 73, True


class TimedOut(PyroError):
    code, exit_code, retryable = "timeout", 124, True


class Cancelled(PyroError):
    code, exit_code = "cancelled", 130


_KINDS: list[type[PyroError]] = [PyroError, *PyroError.__subclasses__()]
_BY_CODE = {kind.code: kind for kind in _KINDS}
