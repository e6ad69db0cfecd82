"""Programs whose arguments are programs: a safe subset of each language is told from the rest."""
