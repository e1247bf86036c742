"""A model as frozen typed nodes, recorded from a forward pass that really ran.

``observed`` watches one pass of the user's own training through hooks and dispatch modes, ``nodes`` is the plain data
it gives, ``op_graph`` and ``conceptual`` turn that data into the two values TensorBoard draws, and ``module_names``
gives modules and parameters the names that every room above uses. Nothing is traced, compiled or run a second time, and
when the pass is over nothing of it is left on the model.
"""
