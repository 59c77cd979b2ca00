-- What is told of messages later on: deadlines that still run, and which dead letters a person has dealt with.

-- The messages whose sender is to be told unless they are read, or answered, in time: gone once that is so, once they
-- are dead, and once their sender was told. `agent` and `sender` are folded; `due` is UTC with microseconds.
CREATE TABLE deadlines (
    message_id INTEGER PRIMARY KEY,
    agent      TEXT NOT NULL,
    sender     TEXT NOT NULL,
    due        TEXT NOT NULL,
    awaits     TEXT NOT NULL
) STRICT;

CREATE INDEX deadlines_due ON deadlines (due);
CREATE INDEX deadlines_read ON deadlines (agent, message_id) WHERE awaits = 'read';

-- `closed` is the event that closed a dead letter, NULL while it is open; `how` is retried or dropped.
ALTER TABLE dead_letters ADD COLUMN closed INTEGER;
ALTER TABLE dead_letters ADD COLUMN how TEXT;

CREATE INDEX dead_letters_open ON dead_letters (agent COLLATE NOCASE) WHERE closed IS NULL;
