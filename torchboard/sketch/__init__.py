"""The device arithmetic: what a tensor's values look like, in one row of a table, without waiting for the device.

``layout`` says what a row holds (numpy only), ``reference`` folds a tensor into a row with torch operations on any device,
``host`` does the same for tensors in the host's own memory (``host_codes`` counts, ``host_values`` is for types of few values,
``host_many`` for many small tensors at once, ``host_table`` for what comes one by one), ``sampling`` takes a part of large
ones, ``ops`` makes them operators of torch, ``table`` holds the rows and ``merging`` brings those of
several ranks together. A row is 4034 counts whose bins are floats with five mantissa bits around a pivot, and ten figures;
rows of one pivot and scale merge by adding the counts and all figures but the extremes, which take the maximum.
"""
