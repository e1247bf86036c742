"""Arrays as labelled pictures: colours with a scale that is said, sheets of planes, lines and tables, and a frame around.

NumPy alone; whoever settles a snapshot draws, away from the training thread.
"""
