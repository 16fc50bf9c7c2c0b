"""Text sources, tokenising, packing and the block store; numpy only, no jax."""
