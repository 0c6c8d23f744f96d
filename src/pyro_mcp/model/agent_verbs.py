"""The agent's verbs in the words of people, who never learn that there is a wire.

An agent refuses as "cannot <verb>: <cause>", and only names the verb by its name on the wire where it knows no better.
"""

from __future__ import annotations

import re

_IN_WORDS = {
    "changes": "compare /workspace with the baseline",
    "exec": "run the command",
    "exec_forget": "forget the command",
    "exec_resume": "go on with the command",
    "file_lines": "read the file",
    "file_list": "list files",
    "file_search": "search files",
    "network_up": "set up the network",
    "overlay_load": "fill /workspace",
    "overlay_pack": "export from /workspace",
    "overlay_save": "save /workspace",
    "secret_put": "hand over a secret",
    "service_list": "list services",
    "service_logs": "read the log",
    "service_watch": "watch the services",
    "set_clock": "set the clock",
    "shell_attach": "stay attached",
    "shell_list": "list shells",
    "tcp_connect": "reach the server",
    "tree_apply": "apply the patch",
    "tree_pack": "export from /workspace",
    "tree_unpack": "import into /workspace",
}
"""Those that are missing read well the other way round: `noun_action` is "action the noun"."""
_REFUSED = re.compile(r"cannot ([a-z]+(?:_[a-z]+)+|changes|exec)(?=[: ])")


def in_words(verb: str) -> str:
    """What completes "cannot"."""
    noun, _, action = verb.partition("_")
    return _IN_WORDS.get(verb) or (f"{action} the {noun}" if action else verb)


def refused_in_words(message: str) -> str:
    """An agent's refusal; it begins with what somebody asked for."""
    return _REFUSED.sub(lambda found: f"cannot {in_words(found[1])}", message, count=1)
