"""What an agent calls its verbs reaches nobody."""

from __future__ import annotations

from pyro_mcp.model.agent_verbs import refused_in_words


def test_only_the_verb_is_put_into_words() -> None:
    assert refused_in_words("cannot exec sh: cannot exec: no") == "cannot run the command sh: cannot exec: no"
    assert refused_in_words("cannot shell_open: it is so") == "cannot open the shell: it is so"
    assert refused_in_words("cannot read tree_pack: it is a directory") == "cannot read tree_pack: it is a directory"
    assert refused_in_words("cannot execute it") == "cannot execute it"
