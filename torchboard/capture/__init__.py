"""What is seen of a live model: hooks that launch one reduction and leave, read at the boundary of a step.

Hooks sit on the model only in armed windows, from the end of one optimizer step to the end of the next. Nothing here
waits for a device; ``snapshot.py`` is the one place where data cross to the host.
"""
