"""What `sessiond reproduce` does: a session's recorded commands run again, or written down as a script."""
