"""Tests that kill processes, fail disks or cut networks."""
