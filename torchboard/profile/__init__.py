"""torch.profiler over some batches of training: a trace of what ran when, and a list of what took longest."""
