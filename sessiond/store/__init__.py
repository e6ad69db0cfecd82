"""The durable record of sessions and commands: a journal that is written at once, and SQLite that follows it."""
