-- Every statement that runs against a log, by name: "-- name: x", what it is for, then the statement.
-- Columns of an event are always selected in the order of eventlog.event.Event's fields.

-- name: insert_event
-- Append one event. Header and payload come as bytes: they were encoded once already. What a column has no value for
-- comes as -1, '' or an empty blob (eventlog/seal.py says why).
INSERT INTO events (id, event, time, agent, sender, thread_id, reply_to, expires, scope, key, part, request,
                    header, salt, digest, hash, payload)
VALUES (?, ?, ?, nullif(?, ''), nullif(?, ''), nullif(?, -1), nullif(?, -1), nullif(?, ''), nullif(?, ''), nullif(?, ''),
        nullif(?, -1), nullif(?, x''), CAST(? AS TEXT), nullif(?, x''), ?, ?, CAST(nullif(?, x'') AS TEXT))

-- name: insert_message
-- The same for a message without key and expiry, as most are: what has a value here need not be looked at.
INSERT INTO events (id, event, time, agent, sender, thread_id, reply_to, header, salt, digest, hash, payload)
VALUES (?, 'message', ?, ?, ?, ?, nullif(?, -1), CAST(? AS TEXT), ?, ?, ?, CAST(? AS TEXT))

-- name: head
-- The newest event's id and hash.
SELECT id, hash FROM events ORDER BY id DESC LIMIT 1

-- name: event
-- One event by its id.
SELECT id, event, ifnull(agent, ''), ifnull(sender, ''), CAST(header AS BLOB), CAST(payload AS BLOB), hash
FROM events WHERE id = :id

-- name: keyed
-- The events that a request with this key made, in order, with the request's SHA-256 at the end of each row.
SELECT id, event, ifnull(agent, ''), ifnull(sender, ''), CAST(header AS BLOB), CAST(payload AS BLOB), hash,
       substr(request, 1, length(request) - 4)
FROM events WHERE scope = :scope AND key = :key ORDER BY part

-- name: page_all
-- Events of every kind and agent.
SELECT id, event, ifnull(agent, ''), ifnull(sender, ''), CAST(header AS BLOB), CAST(payload AS BLOB), hash
FROM events WHERE id > :after AND id < :before ORDER BY id LIMIT :limit

-- name: page_messages
-- Messages to anyone. They are the bulk of a log, so the primary key is the best index for them.
SELECT id, event, ifnull(agent, ''), ifnull(sender, ''), CAST(header AS BLOB), CAST(payload AS BLOB), hash
FROM events WHERE id > :after AND id < :before AND event = 'message' ORDER BY id LIMIT :limit

-- name: page_kind
-- Events of one kind other than message. The last condition says to the planner that the partial index serves.
SELECT id, event, ifnull(agent, ''), ifnull(sender, ''), CAST(header AS BLOB), CAST(payload AS BLOB), hash
FROM events
WHERE event = :kind AND id > :after AND id < :before AND event <> 'message'
ORDER BY id LIMIT :limit

-- name: page_agent
-- Events for or about one agent; `kinds` is a JSON array, or NULL for every kind.
SELECT id, event, ifnull(agent, ''), ifnull(sender, ''), CAST(header AS BLOB), CAST(payload AS BLOB), hash
FROM events
WHERE agent = :agent AND id > :after AND id < :before
  AND (:kinds IS NULL OR event IN (SELECT value FROM json_each(:kinds)))
ORDER BY id LIMIT :limit

-- name: ids_agent
-- The ids of events for or about one agent, as a JSON array; `kinds` is a JSON array, or NULL for every kind.
SELECT json_group_array(id) FROM (
    SELECT id FROM events
    WHERE agent = :agent AND id > :after AND id < :before
      AND (:kinds IS NULL OR event IN (SELECT value FROM json_each(:kinds)))
    ORDER BY id LIMIT :limit
)

-- name: frames
-- The frames (eventlog.sse.encode_event of eventlog.event.Event.json, byte for byte) of the events in `ids`, a JSON
-- array, or if that is NULL of the first `limit` ones; as one value, so that no event is ever an object of Python's,
-- and nothing else waits for Python meanwhile. Then the last id that was looked at, how many were, and the last shown.
-- `kinds` and `visible` (agents) are JSON arrays too, or NULL. A header is flat, so it ends in one brace; each frame
-- ends in the same way, so that is what stands in between.
SELECT CAST(group_concat(
           CASE WHEN shown THEN
               'id: ' || id || char(10)
               || CASE event WHEN 'message' THEN '' ELSE 'event: ' || event || char(10) END
               || 'data: ' || rtrim(header, '}')
               || CASE WHEN payload IS NOT NULL THEN ',"payload":' || payload
                       WHEN event = 'message' THEN ',"redacted":true'
                       ELSE '' END
           END, '}' || char(10) || char(10)) || '}' || char(10) || char(10) AS BLOB),
       max(id), count(*), max(CASE WHEN shown THEN id END)
FROM (
    SELECT id, event, header, payload,
           (:kinds IS NULL OR instr(:kinds, '"' || event || '"'))
           AND (:visible IS NULL OR agent IN (SELECT value FROM json_each(:visible))
                OR sender IN (SELECT value FROM json_each(:visible))) AS shown
    FROM events
    WHERE id IN (
        SELECT * FROM (
            SELECT id FROM events WHERE :ids IS NULL AND id > :after AND id < :before ORDER BY id LIMIT :limit
        )
        UNION ALL SELECT value FROM json_each(:ids)
    )
    ORDER BY id
)

-- name: page_thread
-- Messages of one thread; `agents` is a JSON array of recipients, or NULL for all.
SELECT id, event, ifnull(agent, ''), ifnull(sender, ''), CAST(header AS BLOB), CAST(payload AS BLOB), hash
FROM events
WHERE thread_id = :thread AND id > :after AND id < :before
  AND (:agents IS NULL OR agent IN (SELECT value FROM json_each(:agents)))
ORDER BY id LIMIT :limit

-- name: inbox
-- Messages to one agent.
SELECT id, event, ifnull(agent, ''), ifnull(sender, ''), CAST(header AS BLOB), CAST(payload AS BLOB), hash
FROM events
WHERE agent = :agent AND id > :after AND id <= :through AND event = 'message'
ORDER BY id LIMIT :limit

-- name: living
-- Messages to one agent that are neither expired nor dead.
SELECT id, event, ifnull(agent, ''), ifnull(sender, ''), CAST(header AS BLOB), CAST(payload AS BLOB), hash
FROM events
WHERE agent = :agent AND id > :after AND id <= :through AND event = 'message'
  AND (expires IS NULL OR expires > :wall)
  AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE message_id = events.id)
ORDER BY id LIMIT :limit

-- name: count_living
-- How many messages `living` would find, counted up to a limit.
SELECT count(*) FROM (
    SELECT 1 FROM events
    WHERE agent = :agent AND id > :after AND event = 'message'
      AND (expires IS NULL OR expires > :wall)
      AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE message_id = events.id)
    LIMIT :limit
)

-- name: first_living
-- The oldest message that `living` would find.
SELECT id FROM events
WHERE agent = :agent AND id > :after AND id <= :through AND event = 'message'
  AND (expires IS NULL OR expires > :wall)
  AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE message_id = events.id)
ORDER BY id LIMIT 1

-- name: last_living
-- The newest message that `living` would find.
SELECT id FROM events
WHERE agent = :agent AND id > :after AND id <= :through AND event = 'message'
  AND (expires IS NULL OR expires > :wall)
  AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE message_id = events.id)
ORDER BY id DESC LIMIT 1

-- name: message_before
-- The agent's message before an id, whatever became of it.
SELECT id FROM events
WHERE agent = :agent AND id < :id AND event = 'message'
ORDER BY id DESC LIMIT 1

-- name: replies
-- The messages that answer one.
SELECT id FROM events WHERE reply_to = :id ORDER BY id LIMIT :limit

-- name: takes_part
-- Whether one of these agents (a JSON array) sent or was sent a message of a thread.
SELECT 1 FROM events
WHERE thread_id = :thread
  AND (agent IN (SELECT value FROM json_each(:agents)) OR sender IN (SELECT value FROM json_each(:agents)))
LIMIT 1

-- name: agents
-- Every agent that any event named.
SELECT spelled, known, state FROM agents ORDER BY name

-- name: put_agent
-- Store an agent's state.
INSERT INTO agents (name, spelled, known, version, cursor, state)
VALUES (?, ?, ?, ?, ?, CAST(? AS TEXT))
ON CONFLICT (name) DO UPDATE SET
    spelled = excluded.spelled, known = excluded.known, version = excluded.version, cursor = excluded.cursor,
    state = excluded.state

-- name: put_thread
-- Count one more message in a thread.
INSERT INTO threads (id, messages, last, hops)
VALUES (?, 1, ?, ?)
ON CONFLICT (id) DO UPDATE SET messages = messages + 1, last = excluded.last, hops = max(hops, excluded.hops)

-- name: put_thread_wake
-- Count one more wake for a thread.
UPDATE threads SET wakes = wakes + 1 WHERE id = ?

-- name: put_stop
-- A thread, or what goes on in it, was stopped.
INSERT INTO stops (id, thread) VALUES (?, ?)

-- name: end_stops
-- A thread goes on.
DELETE FROM stops WHERE thread = ?

-- name: count_thread_anew
-- Its messages, hops and wakes count from here on.
UPDATE threads SET messages_from = messages, hops_from = hops, wakes_from = wakes WHERE id = ?

-- name: stops
-- The events that say what is stopped, oldest first.
SELECT e.id, e.event, ifnull(e.agent, ''), ifnull(e.sender, ''), CAST(e.header AS BLOB), CAST(e.payload AS BLOB), e.hash
FROM stops s JOIN events e ON e.id = s.id ORDER BY s.id

-- name: last_resumed
-- The newest event that let a thread go on.
SELECT max(id) FROM events WHERE event = 'thread.resumed' AND event <> 'message'

-- name: message_in_thread
-- One message by its id, and what is counted of its thread.
SELECT e.id, e.event, ifnull(e.agent, ''), ifnull(e.sender, ''), CAST(e.header AS BLOB), CAST(e.payload AS BLOB), e.hash,
       t.id, t.messages - t.messages_from, t.hops_from, t.wakes - t.wakes_from
FROM events e JOIN threads t ON t.id = e.thread_id WHERE e.id = :id AND e.event = 'message'

-- name: put_wake
-- A wake was granted.
INSERT INTO wakes (id, key, agent, after, through, attempt, watcher, node, limits, time)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?)

-- name: end_wake
-- A wake ended. What a watcher reported stands; what the bus said by itself gives way to a report.
UPDATE wakes SET outcome = ?, reported = ?, finished = ?, finished_time = ?, exit_code = ?, duration_ms = ?, detail = ?
WHERE id = ? AND reported = 0

-- name: wake
-- One wake by its id.
SELECT w.id, w.key, w.agent, w.after, w.through, w.attempt, w.watcher, w.node, w.limits, w.time, w.outcome, w.reported,
       w.finished, w.finished_time, w.exit_code, w.duration_ms, w.detail, substr(e.request, 1, length(e.request) - 4)
FROM wakes w JOIN events e ON e.id = w.id WHERE w.id = :id

-- name: wake_by_key
-- The wake that a key was granted.
SELECT w.id, w.key, w.agent, w.after, w.through, w.attempt, w.watcher, w.node, w.limits, w.time, w.outcome, w.reported,
       w.finished, w.finished_time, w.exit_code, w.duration_ms, w.detail, substr(e.request, 1, length(e.request) - 4)
FROM wakes w JOIN events e ON e.id = w.id WHERE w.key = :key ORDER BY w.id LIMIT 1

-- name: wakes_covering
-- The latest wakes that covered a message, newest first. They are newer than it.
SELECT w.id, w.key, w.agent, w.after, w.through, w.attempt, w.watcher, w.node, w.limits, w.time, w.outcome, w.reported,
       w.finished, w.finished_time, w.exit_code, w.duration_ms, w.detail, substr(e.request, 1, length(e.request) - 4)
FROM wakes w JOIN events e ON e.id = w.id
WHERE w.agent = :agent AND w.id > :id AND w.after < :id AND w.through >= :id
ORDER BY w.id DESC LIMIT :limit

-- name: wakes_of
-- An agent's latest wakes, newest first.
SELECT w.id, w.key, w.agent, w.after, w.through, w.attempt, w.watcher, w.node, w.limits, w.time, w.outcome, w.reported,
       w.finished, w.finished_time, w.exit_code, w.duration_ms, w.detail, substr(e.request, 1, length(e.request) - 4)
FROM wakes w JOIN events e ON e.id = w.id WHERE w.agent = :agent ORDER BY w.id DESC LIMIT :limit

-- name: starts
-- The agent's latest wakes up to one that began a turn or may have, newest first.
SELECT id, time FROM wakes
WHERE agent = :agent AND id <= :through AND ifnull(outcome, '') <> 'not_started'
ORDER BY id DESC LIMIT :limit

-- name: put_token
-- A token was made; one of a revoked token's name takes its place.
INSERT INTO tokens (name, spelled, kind, agents, peer, sha256, created) VALUES (?, ?, ?, CAST(? AS TEXT), ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET
    spelled = excluded.spelled, kind = excluded.kind, agents = excluded.agents, peer = excluded.peer,
    sha256 = excluded.sha256, created = excluded.created, revoked = NULL

-- name: end_token
-- A token was revoked.
UPDATE tokens SET revoked = ? WHERE name = ?

-- name: tokens
-- Every token that was ever made and whose name was not taken again.
SELECT spelled, kind, agents, peer, sha256, created, revoked FROM tokens ORDER BY created

-- name: put_dead_letter
-- A message's wakes are used up.
INSERT INTO dead_letters (message_id, id, agent, reason, attempts) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (message_id) DO NOTHING

-- name: dead_letter
-- What is known of a dead message.
SELECT message_id, id, agent, reason, attempts, closed, how FROM dead_letters WHERE message_id = :id

-- name: dead_letters
-- Dead letters in the order of their messages; of one agent, or NULL for all; only the open ones unless `all` is 1.
SELECT message_id, id, agent, reason, attempts, closed, how FROM dead_letters
WHERE message_id > :after AND (:agent IS NULL OR agent = :agent COLLATE NOCASE) AND (:all OR closed IS NULL)
ORDER BY message_id LIMIT :limit

-- name: count_dead_letters
-- How many dead letters of an agent are open, counted up to a limit.
SELECT count(*) FROM (
    SELECT 1 FROM dead_letters WHERE agent = :agent COLLATE NOCASE AND closed IS NULL LIMIT :limit
)

-- name: close_dead_letter
-- A person has dealt with a dead letter.
UPDATE dead_letters SET closed = ?, how = ? WHERE message_id = ? AND closed IS NULL

-- name: last_wake_covering
-- The latest wake that covered a message.
SELECT w.id, w.key, w.agent, w.after, w.through, w.attempt, w.watcher, w.node, w.limits, w.time, w.outcome, w.reported,
       w.finished, w.finished_time, w.exit_code, w.duration_ms, w.detail, substr(e.request, 1, length(e.request) - 4)
FROM wakes w JOIN events e ON e.id = w.id
WHERE w.agent = :agent AND w.id > :id AND w.after < :id AND w.through >= :id
ORDER BY w.id DESC LIMIT 1

-- name: put_deadline
-- A message that is to be read, or answered, by a time.
INSERT INTO deadlines (message_id, agent, sender, due, awaits) VALUES (?, ?, ?, ?, ?)

-- name: read_deadlines
-- An agent has read up to a cursor.
DELETE FROM deadlines WHERE agent = ? AND message_id <= ? AND awaits = 'read'

-- name: answer_deadline
-- A message has an answer; it counts if it goes from its recipient to its sender. Who answers has read, too.
DELETE FROM deadlines WHERE message_id = ? AND agent = ? AND sender = ?

-- name: drop_deadline
-- A message is dead, or its sender was told that the deadline has passed.
DELETE FROM deadlines WHERE message_id = ?

-- name: deadlines_due
-- The messages whose deadline has passed, the earliest first.
SELECT message_id FROM deadlines WHERE due <= :wall ORDER BY due LIMIT :limit

-- name: unreached
-- An agent's messages after one, whatever became of them, with what decides whether their sender is told that the agent
-- cannot be woken: `dead`; `woken` by a wake that began, or may have; `missed`, the latest that did not.
SELECT id, sender, json_extract(header, '$.time'), expires,
       EXISTS (SELECT 1 FROM dead_letters WHERE message_id = m.id),
       EXISTS (SELECT 1 FROM wakes w WHERE w.agent = :agent AND w.id > m.id AND w.after < m.id AND w.through >= m.id
                                       AND w.outcome IS NOT 'not_started'),
       ifnull((SELECT max(w.id) FROM wakes w WHERE w.agent = :agent AND w.id > m.id AND w.after < m.id
                                               AND w.through >= m.id), 0)
FROM events m
WHERE agent = :agent AND id > :after AND event = 'message'
ORDER BY id LIMIT :limit

-- name: dead
-- Which of these messages (a JSON array of ids) are dead.
SELECT message_id FROM dead_letters WHERE message_id IN (SELECT value FROM json_each(:ids))

-- name: put_redaction
-- A message was redacted.
INSERT INTO redactions (message_id, id, reason) VALUES (?, ?, ?) ON CONFLICT (message_id) DO NOTHING

-- name: erase
-- A redacted message's payload and salt go.
UPDATE events SET payload = NULL, salt = NULL WHERE id = ? AND event = 'message' AND salt IS NOT NULL

-- name: redaction
-- The reason for which a message was redacted.
SELECT reason FROM redactions WHERE message_id = :id

-- name: get_meta
-- What is known of this copy of the log.
SELECT value FROM meta WHERE name = :name

-- name: put_meta
-- Note something of this copy of the log.
INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value

-- name: drop_meta
-- Forget something of this copy of the log.
DELETE FROM meta WHERE name = ?

-- name: logs
-- The logs that this one descends from, oldest first, itself last.
SELECT log_id, restored_at, first_new_id FROM logs ORDER BY place

-- name: put_log
-- This copy becomes a log of its own.
INSERT INTO logs (log_id, restored_at, first_new_id) VALUES (?, ?, ?)

-- name: walk
-- Everything that is stored of the events after one, for checking it.
SELECT id, event, time, agent, sender, thread_id, reply_to, expires, scope, key, part, request,
       CAST(header AS BLOB), salt, digest, hash, CAST(payload AS BLOB)
FROM events WHERE id > ? ORDER BY id LIMIT ?
