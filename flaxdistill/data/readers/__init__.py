"""File and dataset formats, read into records."""
