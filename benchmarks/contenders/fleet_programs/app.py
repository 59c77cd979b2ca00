"""A re-creation of the fleet's bus from its description: Flask, SQLite in WAL mode, a stream that looks once a second.

The database's path is in FLEET_DB. No authentication, no keys, no cursor: the stream starts at 0 or at "now".
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


def database() -> sqlite3.Connection:
    """A connection of this request's own."""
    connection = sqlite3.connect(os.environ["FLEET_DB"], timeout=30)
    connection.row_factory = sqlite3.Row
    return connection


def prepare() -> None:
    """The table."""
    with database() as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, from_agent TEXT,"
            " to_agent TEXT, payload TEXT, created REAL)"
        )
        connection.execute("CREATE INDEX IF NOT EXISTS by_agent ON messages (to_agent, id)")


@app.post("/api/send")
def send() -> Any:
    """Store a message."""
    body = request.get_json(force=True)
    connection = database()
    try:
        cursor = connection.execute(
            "INSERT INTO messages (from_agent, to_agent, payload, created) VALUES (?, ?, ?, ?)",
            (body.get("from_agent"), body["to_agent"], json.dumps(body.get("payload")), time.time()),
        )
        connection.commit()
        return jsonify({"id": cursor.lastrowid, "status": "sent"}), 201
    finally:
        connection.close()


@app.get("/api/stream")
def stream() -> Response:
    """Every message as it comes, looked for once a second."""
    connection = database()
    last = 0
    if request.args.get("after") != "0":
        last = connection.execute("SELECT ifnull(max(id), 0) FROM messages").fetchone()[0]

    def events() -> Iterator[str]:
        nonlocal last
        yield ": hello\n\n"
        while True:
            rows = connection.execute("SELECT * FROM messages WHERE id > ? ORDER BY id", (last,)).fetchall()
            for row in rows:
                last = row["id"]
                yield f"data: {json.dumps(dict(row))}\n\n"
            time.sleep(1)

    return Response(events(), mimetype="text/event-stream")


@app.get("/api/inbox")
def inbox() -> Any:
    """An agent's messages."""
    connection = database()
    try:
        query = "SELECT * FROM messages WHERE to_agent = ? AND id > ? ORDER BY id LIMIT 100"
        rows = connection.execute(query, (request.args["agent"], int(request.args.get("after", "0")))).fetchall()
        return jsonify([dict(row) for row in rows])
    finally:
        connection.close()


prepare()
