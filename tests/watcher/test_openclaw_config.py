"""OpenClaw's configuration: where it is, and what a watcher needs of it."""

from pathlib import Path

import pytest

from eventlog.errors import ConfigError
from watcher.openclaw_config import place, read

# As OpenClaw 2026.9.6 writes it with `openclaw config set`, shortened.
AS_WRITTEN = """{
  "gateway": {
    "port": 18888,
    "auth": {
      "token": "the-gateways-own"
    }
  },
  "plugins": {
    "entries": {
      "codex": {
        "config": {
          "sessionCatalog": {
            "enabled": false
          }
        }
      }
    }
  },
  "meta": {
    "lastTouchedVersion": "2026.9.6"
  },
  "agents": {
    "entries": {
      "tony": {},
      "mel": {
        "workspace": "~/mel"
      }
    }
  },
  "hooks": {
    "token": "abc-def",
    "enabled": true
  }
}
"""


def written(tmp_path: Path, text: str, name: str = "openclaw.json") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_what_openclaw_writes_is_understood(tmp_path: Path) -> None:
    found = read(written(tmp_path, AS_WRITTEN), {})
    assert (found.url, found.agents) == ("http://127.0.0.1:18888", ("tony", "mel"))
    assert (found.hooks_enabled, found.hooks_path, found.hooks_token, found.allowed) == (
        True,
        "/hooks",
        "abc-def",
        None,
    )
    assert (found.gateway_auth, found.gateway_token) == ("token", "the-gateways-own")


def test_what_a_person_writes_is_understood(tmp_path: Path) -> None:
    written(tmp_path, "{ list: [{ id: 'main', default: true }, { id: 'mel' }] }", "agents.json5")
    written(tmp_path, "# secrets\nHOOKS_TOKEN='from the file'\nexport GATEWAY=also\n", ".env")
    text = """{
      env: { vars: { PASSWORD: "inline" } },
      gateway: { tls: { enabled: true }, auth: { mode: "password", password: "${PASSWORD}" } },
      hooks: { enabled: true, token: "${HOOKS_TOKEN}", path: "claw/", allowedAgentIds: ["mel"] },
      agents: { $include: "./agents.json5", defaults: {} }, // from another file
    }"""
    found = read(written(tmp_path, text), {})
    assert (found.url, found.agents) == ("https://127.0.0.1:18789", ("main", "mel"))
    assert (found.hooks_token, found.hooks_path, found.allowed) == ("from the file", "/claw", ("mel",))
    assert (found.gateway_auth, found.gateway_token) == ("password", "inline")


def test_the_environment_wins(tmp_path: Path) -> None:
    environ = {"OPENCLAW_GATEWAY_PORT": "19001", "OPENCLAW_GATEWAY_TOKEN": "outside", "T": "set"}
    found = read(
        written(tmp_path, '{ hooks: { token: "${T}-${NOT_SET}", path: "${T}" }, env: { T: "inline" } }'), environ
    )
    assert (found.url, found.gateway_token) == ("http://127.0.0.1:19001", "outside")
    assert found.hooks_token == "", "a variable that is not set leaves no token"
    assert (found.agents, found.hooks_enabled, found.hooks_path) == (("main",), False, "/set")


def test_a_secret_that_is_kept_elsewhere_is_none_here(tmp_path: Path) -> None:
    text = '{ gateway: { auth: { token: { source: "exec", id: "x" } } }, hooks: { token: "$${A}" } }'
    found = read(written(tmp_path, text), {"A": "a"})
    assert (found.gateway_token, found.hooks_token) == ("", "")


@pytest.mark.parametrize(
    ("environ", "profile", "where"),
    [
        ({}, "", "~/.openclaw/openclaw.json"),
        ({}, "ops", "~/.openclaw-ops/openclaw.json"),
        ({"OPENCLAW_PROFILE": "ops"}, "", "~/.openclaw/openclaw.json"),
        ({"OPENCLAW_STATE_DIR": "/s"}, "ops", "/s/openclaw.json"),
        ({"OPENCLAW_HOME": "/srv/claw"}, "", "/srv/claw/.openclaw/openclaw.json"),
        ({"OPENCLAW_STATE_DIR": "~/state", "OPENCLAW_HOME": "/srv/claw"}, "", "/srv/claw/state/openclaw.json"),
        ({"OPENCLAW_CONFIG_PATH": "/etc/claw.json", "OPENCLAW_STATE_DIR": "/s"}, "", "/etc/claw.json"),
        ({"OPENCLAW_CONFIG_PATH": "/etc/claw.json"}, "ops", "/etc/claw.json"),
    ],
)
def test_it_is_looked_for_where_openclaw_looks(environ: dict[str, str], profile: str, where: str) -> None:
    """As `openclaw config file` of 2026.9.6 answers, with these settings."""
    assert place(environ, profile) == Path(where).expanduser()


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .* --openclaw-config"):
        read(tmp_path / "openclaw.json", {})
    with pytest.raises(ConfigError, match="is not JSON5: line 2: "):
        read(written(tmp_path, "{\n  a b }"), {})
    with pytest.raises(ConfigError, match=r"gone\.json cannot be read"):
        read(written(tmp_path, "{ agents: { $include: 'gone.json' } }"), {})
