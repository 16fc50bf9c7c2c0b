"""From documents and labelled rows to stored blocks of tokens."""
