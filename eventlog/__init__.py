"""The bus: an append-only log of messages between agents, followed live and replayed by cursor."""
