-- What all migrations together make: a migration that changes the schema changes this file, too.

CREATE TABLE events (
    id        INTEGER PRIMARY KEY,
    event     TEXT NOT NULL,
    time      TEXT NOT NULL,
    agent     TEXT,            -- a message's recipient, else the agent that the event is about
    sender    TEXT,            -- messages only
    thread_id INTEGER,         -- messages only
    reply_to  INTEGER,         -- messages only
    expires   TEXT,            -- messages only
    scope     TEXT,            -- with key and part: which request made this event
    key       TEXT,
    part      INTEGER,         -- place among the events of that request, from 0
    request   BLOB,            -- SHA-256 of that request, to tell a repeat from a reuse of the key; and a checksum
    header    TEXT NOT NULL,
    salt      BLOB,            -- messages only; erased with the payload
    digest    BLOB NOT NULL,
    hash      BLOB NOT NULL,
    payload   TEXT             -- messages only; NULL once redacted
) STRICT;

CREATE INDEX events_agent ON events (agent, id, event) WHERE agent IS NOT NULL;
CREATE INDEX events_thread ON events (thread_id) WHERE thread_id IS NOT NULL;
CREATE INDEX events_reply ON events (reply_to) WHERE reply_to IS NOT NULL;
CREATE INDEX events_kind ON events (event) WHERE event <> 'message';
CREATE UNIQUE INDEX events_key ON events (scope, key, part) WHERE key IS NOT NULL;

CREATE TRIGGER events_kept BEFORE DELETE ON events
BEGIN
    SELECT raise(ABORT, 'the log is append-only');
END;

CREATE TRIGGER events_unchanged BEFORE UPDATE ON events
WHEN NOT (
    old.event = 'message' AND new.payload IS NULL AND new.salt IS NULL
    AND new.id IS old.id AND new.event IS old.event AND new.time IS old.time
    AND new.agent IS old.agent AND new.sender IS old.sender AND new.thread_id IS old.thread_id
    AND new.reply_to IS old.reply_to AND new.expires IS old.expires
    AND new.scope IS old.scope AND new.key IS old.key AND new.part IS old.part AND new.request IS old.request
    AND new.header IS old.header AND new.digest IS old.digest AND new.hash IS old.hash
)
BEGIN
    SELECT raise(ABORT, 'the log is append-only');
END;

CREATE TABLE agents (
    name    TEXT PRIMARY KEY,
    spelled TEXT NOT NULL,
    known   INTEGER NOT NULL,
    version INTEGER NOT NULL,
    cursor  INTEGER NOT NULL,
    state   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE wakes (
    id            INTEGER PRIMARY KEY,
    key           TEXT NOT NULL,
    agent         TEXT NOT NULL COLLATE NOCASE,
    after         INTEGER NOT NULL,
    through       INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    watcher       TEXT NOT NULL,
    node          TEXT NOT NULL,
    limits        TEXT NOT NULL,
    time          TEXT NOT NULL,
    outcome       TEXT,
    reported      INTEGER NOT NULL DEFAULT 0,
    finished      INTEGER NOT NULL DEFAULT 0,
    finished_time TEXT,
    exit_code     INTEGER,
    duration_ms   ANY,
    detail        TEXT
) STRICT;

CREATE INDEX wakes_key ON wakes (key);
CREATE INDEX wakes_agent ON wakes (agent, id, after, through);

CREATE TABLE threads (
    id            INTEGER PRIMARY KEY,
    messages      INTEGER NOT NULL,
    last          INTEGER NOT NULL,
    hops          INTEGER NOT NULL,
    wakes         INTEGER NOT NULL DEFAULT 0,
    messages_from INTEGER NOT NULL DEFAULT 0,
    hops_from     INTEGER NOT NULL DEFAULT 0,
    wakes_from    INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE stops (
    id     INTEGER PRIMARY KEY,
    thread INTEGER NOT NULL
) STRICT;

CREATE INDEX stops_thread ON stops (thread);

CREATE TABLE tokens (
    name    TEXT PRIMARY KEY,
    spelled TEXT NOT NULL,
    kind    TEXT NOT NULL,
    agents  TEXT NOT NULL,
    peer    TEXT,
    sha256  TEXT NOT NULL,
    created INTEGER NOT NULL,
    revoked INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letters (
    message_id INTEGER PRIMARY KEY,
    id         INTEGER NOT NULL,
    agent      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    attempts   INTEGER NOT NULL
, closed INTEGER, how TEXT) STRICT;

CREATE INDEX dead_letters_open ON dead_letters (agent COLLATE NOCASE) WHERE closed IS NULL;

CREATE TABLE deadlines (
    message_id INTEGER PRIMARY KEY,
    agent      TEXT NOT NULL,
    sender     TEXT NOT NULL,
    due        TEXT NOT NULL,
    awaits     TEXT NOT NULL
) STRICT;

CREATE INDEX deadlines_due ON deadlines (due);
CREATE INDEX deadlines_read ON deadlines (agent, message_id) WHERE awaits = 'read';

CREATE TABLE redactions (
    message_id INTEGER PRIMARY KEY,
    id         INTEGER NOT NULL,
    reason     TEXT NOT NULL
) STRICT;

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE logs (
    place        INTEGER PRIMARY KEY,
    log_id       TEXT NOT NULL UNIQUE,
    restored_at  INTEGER NOT NULL,
    first_new_id INTEGER NOT NULL
) STRICT;
