"""Models in Hugging Face's format: read, write, convert, verify and push."""
