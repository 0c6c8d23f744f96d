"""Prompts: recipes that a person picks in the host, for the model to follow. Each is shown where its tools are."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.model.count import count_of

MAX_ARGUMENT = 10_000
HERE = "the user's current project"


@dataclass(frozen=True)
class PromptArgument:
    """What a person may say with it, and what stands there if they do not; without a default they have to."""

    name: str
    description: str
    default: str | None = None


@dataclass(frozen=True)
class PromptRecipe:
    """A prompt. Its text is `recipes/<name>.md`, with `{argument}` where an argument goes; `needs` is every tool that
    it names."""

    name: str
    title: str
    description: str
    arguments: tuple[PromptArgument, ...]
    needs: tuple[str, ...]

    def listed(self) -> dict[str, Any]:
        """The prompt as `prompts/list` writes it, in the order in which the MCP library would."""
        arguments = [
            {"description": one.description, "name": one.name, "required": one.default is None}
            for one in self.arguments
        ]
        return {"arguments": arguments, "description": self.description, "name": self.name, "title": self.title}

    def text(self, given: Mapping[str, str]) -> str:
        """The text with what was `given`. Raises `InvalidArgument`."""
        known = [one.name for one in self.arguments]
        for name, value in given.items():
            if name not in known:
                hint = f"It takes: {', '.join(known)}."
                raise InvalidArgument(f"cannot use prompt {self.name}: it has no argument {name[:64]!r}", hint=hint)
            if len(value) > MAX_ARGUMENT:
                raise InvalidArgument(
                    f"cannot use prompt {self.name}: {name} is too long",
                    hint=f"At most {count_of(MAX_ARGUMENT, 'character')}.",
                )
        values = {}
        for one in self.arguments:
            said = given.get(one.name) or one.default
            if said is None:
                raise InvalidArgument(f"cannot use prompt {self.name}: {one.name} is missing", hint=one.description)
            values[one.name] = said
        return self.template().format_map(values)

    def template(self) -> str:
        return resources.files("pyro_mcp.surfaces.mcp").joinpath("recipes", f"{self.name}.md").read_text("utf-8")


_PROJECT = PromptArgument("project", "the project's directory (default: the current one)", HERE)
_READ = ("workspace_file_list", "workspace_file_search", "workspace_file_read")
_ENDS = ("workspace_summary", "workspace_delete")

RECIPES = (
    PromptRecipe(
        "cold-start-validation",
        "Validate a cold start",
        "Set a project up from nothing but its files, and report what stands in the way.",
        (_PROJECT,),
        ("workspace_create", *_READ, "workspace_exec", "workspace_logs", "service_start", "service_logs", *_ENDS),
    ),
    PromptRecipe(
        "repro-fix-loop",
        "Reproduce and fix a fault",
        "Make a fault happen in a workspace, mend it there, and hand over the proof and the patch.",
        (PromptArgument("fault", "what goes wrong, and how it shows"), _PROJECT),
        (
            *("workspace_create", "workspace_exec", "workspace_file_search", "workspace_file_read", "workspace_reset"),
            *("workspace_patch_apply", "workspace_file_edit", "workspace_diff", "workspace_export"),
            "workspace_delete",
        ),
    ),
    PromptRecipe(
        "parallel-workspaces",
        "Try several ways at once",
        "Work on the same task in several isolated workspaces, and choose by the outcome.",
        (PromptArgument("task", "what is to be reached"), _PROJECT),
        (
            *("workspace_create", "workspace_file_edit", "workspace_patch_apply", "workspace_exec", "workspace_list"),
            *("workspace_diff", "workspace_logs", "workspace_export", "workspace_delete"),
        ),
    ),
    PromptRecipe(
        "untrusted-inspection",
        "Inspect untrusted code",
        "Look into code that nobody trusts, without letting it reach anything.",
        (PromptArgument("code", "directory or archive of the code"),),
        ("workspace_create", *_READ, "workspace_exec", "workspace_diff", "workspace_reset", *_ENDS),
    ),
    PromptRecipe(
        "review-eval",
        "Review a change by running it",
        "Judge a change by what its checks do before and after it, from snapshots.",
        (PromptArgument("change", "the change: a patch, a branch or a description of it"), _PROJECT),
        (
            *("workspace_create", "workspace_exec", "snapshot_create", "workspace_patch_apply", "workspace_sync_push"),
            *("workspace_logs", "workspace_reset", "workspace_diff", *_ENDS),
        ),
    ),
)


def recipes(tools: Container[str]) -> dict[str, PromptRecipe]:
    """The recipes that can be followed with these `tools`, by name."""
    return {one.name: one for one in RECIPES if all(tool in tools for tool in one.needs)}
