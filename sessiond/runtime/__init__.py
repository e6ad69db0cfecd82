"""What carries out core's decisions: guest links, warm pools, sessions and their commands. asyncio, one event loop, no threads."""
