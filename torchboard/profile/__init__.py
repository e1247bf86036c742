"""torch.profiler over some batches: what ran when, for three viewers, what took longest, and each layer's time."""
