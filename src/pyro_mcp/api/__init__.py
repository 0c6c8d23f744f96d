"""The declared verbs, one module per noun. Importing this package imports none of them."""

VERB_MODULES = (
    *("run", "vm", "environment", "doctor", "workspace", "project", "exec"),
    *("file", "patch", "diff", "sync", "export", "snapshot", "summary", "service", "disk", "shell"),
)
"""The modules that declare verbs."""
