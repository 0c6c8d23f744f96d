"""Signals as programs expect them: each at its default, none blocked.

What is ignored or blocked stays so over an exec. So without this, what `nohup` or a shell's `&` left in whoever started
the node would reach every guest and every user's command, which could then not be interrupted.
"""

from __future__ import annotations

import signal

_PYTHONS_OWN = {signal.SIGPIPE, signal.SIGXFSZ}
"""Python ignores these to get an error instead, and sets them back in its children."""


def reset_signals() -> None:
    """Take back what this process inherited. Call it on the main thread before any other thread or child is made."""
    for number in signal.valid_signals() - _PYTHONS_OWN:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
