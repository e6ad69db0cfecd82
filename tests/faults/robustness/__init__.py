"""Random traffic, injected faults, and a checker of the recorded history. `python -m tests.faults.robustness --help`.

history   what clients asked for and were told, what was done to the daemon, what was found at the end: typed events
traffic   clients that do what clients do, and record it            programs   what they run inside
faults    what is done to the daemon, the sandboxes, the engine, the network and the disk
checker   pure: a history -> what it breaks
run       one round after the other, each with a daemon's state and a seed of its own
"""
