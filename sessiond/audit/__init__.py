"""The record of what was asked, decided and done: a hash-chained log in files. docs/audit.md has the format."""
