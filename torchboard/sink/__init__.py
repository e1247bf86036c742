"""Where events go. A sink ends the way (a file, memory, nowhere) or wraps another sink (a queue and a thread before it)."""
