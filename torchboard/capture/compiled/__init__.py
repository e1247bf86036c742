"""Captured steps that stay compiled: the measuring as part of the user's graph, and what has to hold for it."""
