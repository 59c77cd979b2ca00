"""The templates of the watcher's systemd units, which `bus-watcher install` fills in."""
