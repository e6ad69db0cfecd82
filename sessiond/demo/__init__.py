"""`sessiond demo`: a session at work, what each step costs, and what it would cost without sessiond."""
