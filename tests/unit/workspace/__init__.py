"""Tests of workspaces on disk."""
