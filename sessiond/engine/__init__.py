"""What makes sandboxes: the port in `port`, one module an engine, and `open_engine` to choose one."""

from sessiond.engine.select import open_engine

__all__ = ["open_engine"]
