"""The verbs and their bodies. Importing this package imports none of them."""

VERB_MODULES = (
    *("run", "vm", "environments", "doctor", "workspace", "workspace_exec"),
    *("files", "patch", "diff", "sync", "export", "snapshot", "summary", "service", "disk", "shell"),
)
"""The modules that declare verbs."""
