"""Roster: the tokens that are good, in memory, as the log tells it."""

from collections.abc import Iterable

from eventlog.event import Event, fold
from eventlog.store import TokenRow


class Roster:
    """Tokens by name and by digest; moved on by every event that makes or ends one."""

    def __init__(self, rows: Iterable[TokenRow]) -> None:
        self._by_name = {fold(row.name): row for row in rows if row.revoked is None}
        self._by_digest = {row.sha256: row for row in self._by_name.values()}

    def by_digest(self, sha256: str) -> TokenRow | None:
        """The good token with this hexadecimal SHA-256."""
        return self._by_digest.get(sha256)

    def by_name(self, name: str) -> TokenRow | None:
        """The good token of this name."""
        return self._by_name.get(fold(name))

    def rows(self) -> list[TokenRow]:
        """Every good token, oldest first."""
        return sorted(self._by_name.values(), key=lambda row: row.created)

    def apply(self, event: Event) -> None:
        """Move on by one event; only those that make or end a token change anything."""
        if event.event == "token.created":
            fields = event.fields
            row = TokenRow(
                name=fields["name"],
                kind=fields["kind"],
                agents=tuple(fields.get("agents", ())),
                peer=fields.get("peer"),
                sha256=fields["sha256"],
                created=event.id,
                revoked=None,
            )
            self._drop(row.name)
            self._by_name[fold(row.name)] = self._by_digest[row.sha256] = row
        elif event.event == "token.revoked":
            self._drop(event.fields["name"])

    def _drop(self, name: str) -> None:
        row = self._by_name.pop(fold(name), None)
        if row is not None:
            del self._by_digest[row.sha256]
