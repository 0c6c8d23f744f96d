"""Which exported files could make a program of the host run code, such as hooks and editor settings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pyro_mcp.trees.names import is_git_directory

_NAMES = frozenset(
    {
        *(".envrc", ".direnvrc", ".autoenv.zsh", ".mise.toml", "mise.toml", ".tool-versions"),
        *(".pre-commit-config.yaml", ".lefthook.yml", "lefthook.yml", ".gdbinit", ".lldbinit"),
        *(".vimrc", ".exrc", ".nvimrc", ".nvim.lua", ".dir-locals.el", ".mcp.json", ".npmrc", ".yarnrc", ".yarnrc.yml"),
        *(".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".profile", ".zshrc", ".zshenv", ".zprofile"),
        *("sitecustomize.py", "usercustomize.py"),
    }
)
_FOLDERS = frozenset(
    {
        ".vscode",
        ".idea",
        ".fleet",
        ".zed",
        ".devcontainer",
        ".husky",
        ".claude",
        ".cursor",
        ".codex",
        ".gemini",
        ".cargo",
    }
)
"""Settings of editors, agents and tools that hold commands."""
_ENDINGS = (".code-workspace", ".sublime-project", ".desktop", ".pth", ".lnk")
_GIT = re.compile(r"(hooks/.*(?<!\.sample)|(.*/)?config(\.worktree)?|modules/.*/hooks/.*(?<!\.sample)|info/attributes)")


def runnable(files: Iterable[str]) -> list[str]:
    """Those of `files` (paths below the export) to look at before working in the export on the host, sorted."""
    paths = set(files)
    return sorted(path for path in paths if _runs(path) or _in_bare_repository(path, paths))


def runs_there(place: Path, root: Path) -> bool:
    """Whether a program of the host may run by itself what is put at `place`, below `root`: in git's own directory,
    among the settings of an editor or an agent, or under such a file's name."""
    parts = place.relative_to(root).parts
    if any(is_git_directory(part) or part.casefold() in _FOLDERS for part in parts) or (parts and _runs(parts[-1])):
        return True
    above = [one for one in place.parents if one.is_relative_to(root)]
    # A repository of git under any other name.
    return any((one / "HEAD").is_file() and (one / "objects").is_dir() for one in above)


def _runs(path: str) -> bool:
    parts = path.split("/")
    for depth, part in enumerate(parts[:-1]):
        if is_git_directory(part):
            return _GIT.fullmatch("/".join(parts[depth + 1 :]).casefold()) is not None
        if part.casefold() in _FOLDERS:
            return True
    name = parts[-1].casefold()
    # A `.git` that is a file points git at a directory elsewhere.
    return name in _NAMES or name.endswith(_ENDINGS) or is_git_directory(name)


def _in_bare_repository(path: str, paths: set[str]) -> bool:
    """git takes any directory with HEAD and config for a repository, without a `.git`."""
    above, _, name = path.rpartition("/")
    if name.casefold() == "config":
        return (f"{above}/HEAD" if above else "HEAD") in paths
    repository, _, folder = above.rpartition("/")
    head = f"{repository}/HEAD" if repository else "HEAD"
    return folder == "hooks" and not name.endswith(".sample") and head in paths
