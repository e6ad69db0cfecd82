"""Decisions without I/O: pure functions and small state holders, no engine, no socket, no clock of their own."""
