"""The daemon: see ARCHITECTURE.md for what is where."""
