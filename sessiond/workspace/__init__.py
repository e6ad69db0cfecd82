"""Volumes: workspaces that outlive their sandboxes, each with a limit on its size."""
