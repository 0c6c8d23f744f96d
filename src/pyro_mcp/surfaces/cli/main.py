"""Main: the edge of the command line. Whatever happens below becomes one clear error and a documented exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from pyro_mcp.errors import Cancelled, PyroError
from pyro_mcp.surfaces.cli.parser import parse, split

SIGPIPE_EXIT = 128 + signal.SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pyro` with `argv` (without the program's name) and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _run(argv)
    except BrokenPipeError:
        # Python would complain once more when it flushes stdout at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return SIGPIPE_EXIT


def _run(argv: Sequence[str]) -> int:
    namespace = None
    try:
        namespace = parse(argv)
        _prepare()
        from pyro_mcp.surfaces.cli.output import Output

        namespace.output = Output(as_json=getattr(namespace, "json", False))
        return int(namespace.handler(namespace))
    except PyroError as error:
        return _report(error, argv, namespace)
    except KeyboardInterrupt:
        return _report(Cancelled("cannot finish the command: it was interrupted"), argv, namespace)
    except (BrokenPipeError, SystemExit):
        raise
    except Exception as error:  # noqa: BLE001
        return _report(_internal(error), argv, namespace)


def _report(error: PyroError, argv: Sequence[str], namespace: object) -> int:
    from pyro_mcp.surfaces.cli.output import Output

    output = getattr(namespace, "output", None) or Output(as_json="--json" in split(argv)[0])
    output.error(error)
    return error.exit_code


def _internal(error: Exception) -> PyroError:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "unknown place"
    return PyroError(
        f"cannot finish the command: {type(error).__name__}: {str(error)[:500]}",
        hint=f"This is a fault in pyro ({where}); please report it.",
    )


def _prepare() -> None:
    """A request to end is an exception, so that the guest's command is ended before this process is. Whoever started
    it with such a signal ignored, as `nohup` does, wants it to go on."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
