"""Services of the machine: files, buckets, processes, device meshes and the JAX backend."""
