"""The `sessiond.v1` wire, pure: no I/O, no asyncio, no socket. Both the daemon and the client stand on it."""
