-- Workspaces and what happened in them. A workspace's machine is a machine like any other that knows its owner; a reset
-- gives the workspace another machine and raises `generation`, which everything since the last reset carries.
ALTER TABLE machines ADD COLUMN workspace_id TEXT;

CREATE TABLE workspaces (
    workspace_id      TEXT PRIMARY KEY,
    machine_id        TEXT NOT NULL,
    state             TEXT NOT NULL CHECK (state IN ('creating', 'ready', 'deleting')),
    name              TEXT,
    labels            TEXT NOT NULL,
    environment       TEXT NOT NULL,
    vcpu_count        INTEGER NOT NULL CHECK (vcpu_count > 0),
    mem_mib           INTEGER NOT NULL CHECK (mem_mib > 0),
    scratch_mib       INTEGER NOT NULL CHECK (scratch_mib > 0),
    network_policy    TEXT NOT NULL CHECK (network_policy IN ('off', 'egress', 'egress+published-ports')),
    allow_host_compat INTEGER NOT NULL CHECK (allow_host_compat IN (0, 1)),
    seed              TEXT NOT NULL,
    ttl_seconds       INTEGER NOT NULL CHECK (ttl_seconds > 0),
    created_at        REAL NOT NULL,
    expires_at        REAL NOT NULL,
    boot_id           TEXT NOT NULL,
    deadline_ns       INTEGER NOT NULL,
    last_activity_at  REAL NOT NULL,
    generation        INTEGER NOT NULL,
    last_reset_at     REAL
) STRICT;

CREATE TABLE commands (
    workspace_id   TEXT NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    generation     INTEGER NOT NULL,
    sequence       INTEGER NOT NULL,
    state          TEXT NOT NULL CHECK (state IN ('running', 'finished', 'ended', 'lost')),
    command        TEXT NOT NULL,
    cwd            TEXT NOT NULL,
    execution_mode TEXT NOT NULL,
    isolation      TEXT NOT NULL,
    started_at     REAL NOT NULL,
    duration_ms    INTEGER,
    exit_code      INTEGER,
    signal         TEXT,
    timed_out      INTEGER NOT NULL CHECK (timed_out IN (0, 1)),
    stdout_dropped INTEGER NOT NULL,
    stderr_dropped INTEGER NOT NULL,
    reason         TEXT,
    PRIMARY KEY (workspace_id, generation, sequence)
) STRICT;

CREATE TABLE snapshots (
    workspace_id  TEXT NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    name          TEXT NOT NULL,
    file          TEXT NOT NULL,
    sha256        TEXT NOT NULL,
    entry_count   INTEGER NOT NULL,
    bytes_written INTEGER NOT NULL,
    created_at    REAL NOT NULL,
    PRIMARY KEY (workspace_id, name)
) STRICT;

CREATE TABLE secrets (
    workspace_id TEXT NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    name         TEXT NOT NULL,
    source_kind  TEXT NOT NULL CHECK (source_kind IN ('literal', 'file')),
    PRIMARY KEY (workspace_id, name)
) STRICT;

CREATE TABLE events (
    event_id     INTEGER PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    generation   INTEGER NOT NULL,
    recorded_at  REAL NOT NULL,
    kind         TEXT NOT NULL,
    detail       TEXT NOT NULL
) STRICT;

CREATE INDEX events_of_workspace ON events (workspace_id, generation, event_id);
