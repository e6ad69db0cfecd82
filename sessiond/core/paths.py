"""Paths that are the same in every sandbox."""

WORKSPACE = "/workspace"
"""Where a session's files live; also its home and working directory."""
