"""Tests with a real OpenClaw gateway: `make test-openclaw` installs one from npm, and runs them."""
