"""A bus that is killed again and again tells each sender of each message once, whenever it was killed."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.foreign import Foreign
from tests.support import SOAK, BusProcess, until

pytestmark = pytest.mark.fault

MESSAGES = 400
KILLS = 40 if SOAK else 6


def at_least(admin: Foreign, count: int) -> Callable[[], bool]:
    return lambda: len(notices(admin)) >= count


def notices(admin: Foreign) -> list[dict[str, Any]]:
    """What boss was told so far."""
    return [one for one in admin.events("&event=message&agent=boss") if one["from_agent"] == "bus"]


def test_each_deadline_is_told_once_through_any_number_of_kills(tmp_path: Path) -> None:
    with BusProcess(tmp_path / "bus", options=["--sweep-interval-s", "0.05", "--unreachable-after-s", "2"]) as bus:
        admin = Foreign(bus.url, bus.admin_token)
        posts = [{"to_agent": f"mel-{n % 20}", "from_agent": "boss", "deadline_in": 0.001} for n in range(MESSAGES)]
        sent = [one["id"] for one in admin.call("POST", "/api/send", posts).body]
        for kill in range(KILLS):
            until(at_least(admin, 2 * MESSAGES * (kill + 1) // (KILLS + 1)))
            bus.kill()
            bus.start()
        until(at_least(admin, 2 * MESSAGES))
        bus.kill()
        bus.start()
        told = Counter((one["type"], one["reply_to"]) for one in notices(admin))
    assert told == {(kind, number): 1 for kind in ("DEADLINE", "UNREACHABLE") for number in sent}
