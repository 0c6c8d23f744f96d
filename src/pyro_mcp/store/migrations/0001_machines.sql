-- Machines, their states and when they end. Times are Unix seconds; a deadline is in nanoseconds of the boot clock
-- of one boot, so that setting the wall clock neither shortens nor lengthens a life.
CREATE TABLE machines (
    machine_id      TEXT PRIMARY KEY,
    environment     TEXT NOT NULL,
    digest          TEXT,
    driver          TEXT NOT NULL,
    isolation       TEXT NOT NULL,
    execution_mode  TEXT NOT NULL,
    vcpu_count      INTEGER NOT NULL CHECK (vcpu_count > 0),
    mem_mib         INTEGER NOT NULL CHECK (mem_mib > 0),
    scratch_mib     INTEGER NOT NULL CHECK (scratch_mib > 0),
    state           TEXT NOT NULL CHECK (state IN
                        ('creating', 'created', 'starting', 'running', 'stopping', 'stopped', 'failed', 'deleting')),
    one_shot        INTEGER NOT NULL CHECK (one_shot IN (0, 1)),
    ttl_seconds     INTEGER NOT NULL CHECK (ttl_seconds > 0),
    created_at      REAL NOT NULL,
    expires_at      REAL NOT NULL,
    boot_id         TEXT NOT NULL,
    deadline_ns     INTEGER NOT NULL,
    reason          TEXT
) STRICT;
