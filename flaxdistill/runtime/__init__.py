"""The machine a run has: files, buckets, processes, device meshes and the JAX backend."""
