"""The `sessiond` command."""
