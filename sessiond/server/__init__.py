"""What faces clients.

Listeners, the checks at the door, one connection's conversation, and the daemon that holds it all.
"""
