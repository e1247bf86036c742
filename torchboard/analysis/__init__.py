"""What a classifier's predictions say about it: curves, confusions, calibration, its worst mistakes, and how fair it is.

Plain NumPy over predictions that a user has gathered: nothing is kept between two calls, and no package beyond those that
torchboard needs is imported. ``Monitor`` has the two methods of ``methods``; everything else here is a pure function.
"""
