"""Pure loss terms, one idea per file."""
