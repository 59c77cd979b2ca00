"""One real gateway for all tests of the module, and a bus and watchers for each."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.foreign import Foreign
from tests.openclaw.gateway import HOOKS_TOKEN, GatewayProcess
from tests.openclaw.install import installed
from tests.openclaw.model import Model
from tests.support import until

#: How long a turn may take on a busy machine.
TURN_S = 120.0


@dataclass
class OpenClawScene:
    """A gateway with its agents tony and mel, and the test double that is their model."""

    gateway: GatewayProcess
    model: Model

    def table(self, name: str, **settings: object) -> str:
        """One agent's table of the watcher's configuration; `waker` is `openclaw` unless it is set."""
        waker = str(settings.get("waker", "openclaw"))
        secret = "hooks-token" if waker == "openclaw" else "gateway-token"
        values = {
            "waker": waker,
            "url": self.gateway.url,
            "token_file": str(self.gateway.home / secret),
            "ack_within": 60,
            "min_interval": 0,
            **settings,
        }
        return f"[agents.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


@pytest.fixture(scope="module")
def openclaw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenClawScene]:
    """A gateway that is warm: each of its agents has had a turn."""
    try:
        installation = installed()
    except RuntimeError as error:
        pytest.fail(str(error))
    home: Path = tmp_path_factory.mktemp("openclaw")
    with Model() as model, GatewayProcess(home, installation, model.url) as gateway:
        for agent in ("tony", "mel"):
            body = {"text": "a warming up", "mode": "now", "agentId": agent}
            answer = Foreign(gateway.url, HOOKS_TOKEN).call("POST", "/hooks/wake", body)
            assert answer.status == 200, answer
            until(lambda: model.turns(agent), TURN_S, why=lambda: gateway.log_text)  # noqa: B023
        yield OpenClawScene(gateway, model)
