"""What a model makes of a set of examples: what a classifier's predictions say about it, and where a layer puts them.

Predictions that a user has gathered are looked at with plain NumPy: curves, confusions, calibration, the worst mistakes, and
how fair they are. Nothing is kept between two calls, and no package beyond those that torchboard needs is imported.
``Monitor`` has the methods of ``methods``; everything else here is a function without state.
"""
