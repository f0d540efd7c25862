-- state.sqlite3, version 3. Money is in millionths of the account's unit, times are Unix milliseconds (UTC).

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- A job is here from its first intent on; `request` is all that is needed to finish it without the manifest.
CREATE TABLE job (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    request TEXT NOT NULL,
    attempt INTEGER NOT NULL,               -- the number of the latest attempt
    failures INTEGER NOT NULL DEFAULT 0,    -- attempts that count against max_attempts
    code TEXT NOT NULL DEFAULT '',          -- why it ended short
    message TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;

CREATE INDEX job_live ON job (status) WHERE status IN ('intent', 'submitted', 'made');

-- One row a create that was, or may have been, sent. At most one of a job is live (outcome = '').
CREATE TABLE attempt (
    job_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    account TEXT NOT NULL,
    base_url TEXT NOT NULL,                 -- where it was sent; empty for a sandbox in the process
    external_id TEXT NOT NULL,
    intended_at INTEGER NOT NULL,
    accepted_at INTEGER,
    ended_at INTEGER,
    task_id TEXT,
    found INTEGER NOT NULL DEFAULT 0,       -- 1: the create's own answer was never seen, the task was found by asking
    images INTEGER NOT NULL,                -- asked for
    reserved INTEGER,                       -- the price when it was sent; NULL: not known
    cost INTEGER,                           -- the charge; NULL: not settled
    outcome TEXT NOT NULL DEFAULT '',       -- '' live | made | failed | refused | unknown | lost
    code TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    head TEXT NOT NULL DEFAULT '',          -- the first bytes of the answer that ended it
    key_print TEXT NOT NULL DEFAULT '',     -- salted fingerprint of the key that it was sent with; '': not known
    id_sent INTEGER NOT NULL DEFAULT 0,     -- 1: the create carried external_id, so that it can be asked for by it
    rehearsal INTEGER NOT NULL DEFAULT 0,   -- 1: a sandbox painted it; never counts as made for a real account
    PRIMARY KEY (job_id, number)
) WITHOUT ROWID;

-- One row an image that the gateway made. `path` is set, in one commit with the hash, before the file moves
-- from the scratch folder to its place: a scratch file whose row has its hash only has to be moved.
CREATE TABLE image (
    job_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    marked INTEGER NOT NULL,                -- 1: the copy with a watermark
    url TEXT NOT NULL,
    path TEXT,
    sha256 TEXT,
    bytes INTEGER,
    width INTEGER,
    height INTEGER,
    mtime_ns INTEGER,                       -- when unchanged, the file needs no second hash
    fetched_at INTEGER,
    lost_path TEXT,                         -- where its file stood, and
    lost_sha256 TEXT,                       -- what it was, when it was found missing: it is taken back if it returns
    warning TEXT NOT NULL DEFAULT '',       -- what could not be checked of it; a column of the index
    PRIMARY KEY (job_id, attempt, idx, marked)
) WITHOUT ROWID;

-- What the manifest asks for, in its order; `seq` is the position in the expansion, equal jobs once.
CREATE TABLE wanted (
    seq INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL UNIQUE,
    images INTEGER NOT NULL
);

-- What people and checks say of an image, by its content: a file that moves or comes back keeps its marks.
CREATE TABLE mark (
    sha256 TEXT NOT NULL,
    reviewer TEXT NOT NULL,                 -- '' a person; else a check with its version, such as blank@1
    verdict TEXT NOT NULL,                  -- '' none | keep | reject | star
    note TEXT NOT NULL DEFAULT '',          -- why
    scores TEXT NOT NULL DEFAULT '{}',      -- JSON: numbers by name
    at INTEGER NOT NULL,
    PRIMARY KEY (sha256, reviewer)
) WITHOUT ROWID;
