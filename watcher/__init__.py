"""The watcher: follows the bus and wakes the agents of this machine; knows the bus only over the wire."""
