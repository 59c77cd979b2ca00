"""`bus-watcher init`: what it writes is a good configuration, with every secret in a file of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eventlog.errors import ConfigError
from watcher import init
from watcher.config import Config
from watcher.openclaw_config import OpenClaw

FOUND = OpenClaw(
    path=Path("/home/ann/.openclaw/openclaw.json"),
    url="http://127.0.0.1:18888",
    agents=("tony", "mel.b"),
    hooks_enabled=True,
    hooks_path="/hooks",
    hooks_token="abc-def",
    allowed=None,
    gateway_auth="token",
    gateway_token="the-gateways-own",
)


def write(tmp_path: Path, found: OpenClaw = FOUND, **more: Any) -> init.Written:
    return init.openclaw(found, tmp_path / "w" / "config.toml", default=tmp_path / "w" / "config.toml", **more)


def test_what_is_written_wakes_every_agent_by_its_hook(tmp_path: Path) -> None:
    written = write(tmp_path)
    config = Config.load(written.config)
    assert list(config.agents) == ["tony", "mel.b"]
    mel = config.agents["mel.b"]
    assert (mel.waker, mel.url, mel.agent_id, mel.min_interval) == ("openclaw", "http://127.0.0.1:18888", "mel.b", 15)
    assert Path(mel.token_file).read_text() == "abc-def\n"
    assert written.secret_file.stat().st_mode & 0o777 == 0o600
    assert "abc-def" not in written.config.read_text()
    assert written.steps[0].startswith("(umask 077; eventlog token create ")
    assert written.steps[0].endswith(f"--agent tony --agent mel.b > {tmp_path}/w/token)")
    assert written.steps[1:] == ("bus-watcher check", "bus-watcher install")
    assert written.warnings == ()


def test_a_turn_for_each_message_needs_the_gateways_own_secret(tmp_path: Path) -> None:
    written = write(tmp_path, waker="openclaw-agent", only=["tony"], name="minipc-ops", url="http://bus:8091")
    config = Config.load(written.config)
    tony = config.agents["tony"]
    assert (config.name, list(config.agents), config.bus.url) == ("minipc-ops", ["tony"], "http://bus:8091")
    assert "eventlog token create minipc-ops --kind watcher --agent tony >" in written.steps[0]
    assert (tony.waker, tony.deliver) == ("openclaw-agent", "each")
    assert Path(tony.token_file).read_text() == "the-gateways-own\n"


def test_another_path_of_the_hooks_stands_in_the_address(tmp_path: Path) -> None:
    written = write(tmp_path, replace(FOUND, hooks_path="/claw"))
    assert Config.load(written.config).agents["tony"].url == "http://127.0.0.1:18888/claw"


def test_nothing_is_written_over_unless_it_is_said(tmp_path: Path) -> None:
    written = write(tmp_path)
    written.config.write_text("mine")
    with pytest.raises(ConfigError, match=r"config\.toml is there already; .* --force"):
        write(tmp_path)
    assert written.config.read_text() == "mine"
    write(tmp_path, force=True)
    assert list(Config.load(written.config).agents) == ["tony", "mel.b"]
    written.config.unlink()
    with pytest.raises(ConfigError, match="hooks-token is there already"):
        write(tmp_path)


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        ({"hooks_enabled": False}, {}, "hooks are off in /home/ann"),
        ({"hooks_token": ""}, {}, "no hooks.token that can be read"),
        ({"gateway_token": ""}, {"waker": "openclaw-agent"}, "OPENCLAW_GATEWAY_TOKEN"),
        ({"gateway_auth": "none"}, {"waker": "openclaw-agent"}, "gateway.auth.mode is 'none'"),
        ({}, {"name": "mini pc"}, "'mini pc' cannot be the name of a watcher"),
        ({}, {"only": ["bob"]}, "has no agent 'bob'; it has tony, mel.b"),
        ({"agents": ("a b",)}, {}, "no agent of the name 'a b'"),
        ({"agents": ("admin",)}, {}, "no agent of the name 'admin'"),
    ],
)
def test_an_openclaw_that_cannot_be_woken_is_told(
    tmp_path: Path, change: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        write(tmp_path, replace(FOUND, **change), **more)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_will_be_refused_is_told_beforehand(tmp_path: Path) -> None:
    written = write(tmp_path, replace(FOUND, allowed=("tony",), hooks_token="the-gateways-own"))
    assert "the gateway's own token" in written.warnings[0]
    assert "does not name mel.b" in written.warnings[1]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("a file")
    with pytest.raises(ConfigError, match="cannot write"):
        write(tmp_path)
