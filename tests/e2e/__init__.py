"""Tests from outside: real processes, real sockets, clients that are not the project's own."""
