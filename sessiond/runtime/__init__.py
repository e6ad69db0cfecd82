"""What carries out core's decisions.

Guest links, warm pools, sessions and their commands. asyncio, one event loop, no threads.
"""
