-- What lives in a workspace beside its commands: services, and the connections that its network policy decided about.

-- A network policy and what belongs to it, as JSON; {} is no network.
ALTER TABLE machines ADD COLUMN network TEXT NOT NULL DEFAULT '{}';
ALTER TABLE workspaces ADD COLUMN network TEXT NOT NULL DEFAULT '{}';
ALTER TABLE commands ADD COLUMN network_refusals TEXT NOT NULL DEFAULT '[]';

-- How much of a command's output its journal holds, and whether that was let go of to make room for later output.
ALTER TABLE commands ADD COLUMN stdout_kept INTEGER NOT NULL DEFAULT 0;
ALTER TABLE commands ADD COLUMN stderr_kept INTEGER NOT NULL DEFAULT 0;
ALTER TABLE commands ADD COLUMN output_gone INTEGER NOT NULL DEFAULT 0 CHECK (output_gone IN (0, 1));

CREATE INDEX commands_kept ON commands (workspace_id, generation, sequence, stdout_kept, stderr_kept)
    WHERE stdout_kept + stderr_kept > 0;

-- Commands since the last reset whose rows are gone.
CREATE TABLE command_totals (
    workspace_id TEXT PRIMARY KEY REFERENCES workspaces ON DELETE CASCADE,
    succeeded    INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    ended        INTEGER NOT NULL
) STRICT;

CREATE TABLE connections (
    connection_id INTEGER PRIMARY KEY,
    machine_id    TEXT NOT NULL REFERENCES machines ON DELETE CASCADE,
    recorded_at   REAL NOT NULL,
    verdict       TEXT NOT NULL CHECK (verdict IN ('allowed', 'refused', 'failed')),
    name          TEXT NOT NULL,
    address       TEXT NOT NULL,
    port          INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    hint          TEXT,
    bytes_in      INTEGER NOT NULL,
    bytes_out     INTEGER NOT NULL,
    duration_ms   INTEGER,
    count         INTEGER NOT NULL
) STRICT;

CREATE INDEX connections_of_machine ON connections (machine_id, recorded_at);
CREATE UNIQUE INDEX connections_alike ON connections (machine_id, verdict, name, address, port, reason)
    WHERE verdict <> 'allowed';

CREATE TABLE connection_totals (
    machine_id TEXT PRIMARY KEY REFERENCES machines ON DELETE CASCADE,
    allowed    INTEGER NOT NULL,
    refused    INTEGER NOT NULL,
    failed     INTEGER NOT NULL,
    bytes_in   INTEGER NOT NULL,
    bytes_out  INTEGER NOT NULL,
    forgotten  INTEGER NOT NULL
) STRICT;

CREATE TABLE services (
    service_id      INTEGER PRIMARY KEY AUTOINCREMENT,
    run             TEXT NOT NULL UNIQUE,
    workspace_id    TEXT NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    generation      INTEGER NOT NULL,
    machine_id      TEXT NOT NULL,
    service_name    TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('starting', 'ready', 'running', 'failed', 'exited', 'stopped')),
    command         TEXT NOT NULL,
    cwd             TEXT NOT NULL,
    readiness       TEXT,
    restart         TEXT NOT NULL CHECK (restart IN ('off', 'on-failure')),
    execution_mode  TEXT NOT NULL,
    isolation       TEXT NOT NULL,
    started_at      REAL NOT NULL,
    published_ports TEXT NOT NULL,
    restart_count   INTEGER NOT NULL,
    ready_at        REAL,
    ended_at        REAL,
    exit_code       INTEGER,
    signal          TEXT,
    pid             INTEGER,
    stop_reason     TEXT,
    stdout          TEXT NOT NULL,
    stderr          TEXT NOT NULL
) STRICT;

CREATE INDEX services_of_workspace ON services (workspace_id, generation, service_name);
