-- What is told of a thread's length, from where on it is counted, and what is stopped. And an ask's newest limit.

-- `hops`: the most of any of its messages. `wakes`: those whose newest message is in it. The rest of the counts say from
-- where on they count: they move when a person lets a stopped thread go on.
DROP TABLE threads;

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

INSERT INTO threads (id, messages, last, hops)
SELECT thread_id, count(*), max(id), max(ifnull(json_extract(header, '$.hops'), 0))
FROM events WHERE thread_id IS NOT NULL GROUP BY thread_id;

-- The `thread.stopped` events that stand: `id` is the event's.
CREATE TABLE stops (
    id     INTEGER PRIMARY KEY,
    thread INTEGER NOT NULL
) STRICT;

CREATE INDEX stops_thread ON stops (thread);

UPDATE wakes SET limits = json_insert(limits, '$.max_wakes_per_hour', 0);

UPDATE agents SET state = json_insert(state, '$.wake.limits.max_wakes_per_hour', 0)
WHERE json_type(state, '$.wake') = 'object';
