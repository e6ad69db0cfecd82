"""`sessiond bench`: what a command, an opening and a byte of output cost here, and what they are compared with."""
