"""The templates of the bus's systemd units, which `eventlog install` fills in."""
