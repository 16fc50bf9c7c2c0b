"""Text sources, tokenizing, packing and the block store, with numpy only (no jax)."""
