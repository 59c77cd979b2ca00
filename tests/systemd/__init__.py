"""Tests under a real systemd of their own, thrown away afterwards."""
