"""Models in Hugging Face's format: read, written, converted, verified and pushed."""
