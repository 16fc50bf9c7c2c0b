"""The command line: one file per command, the flags of configs, and exit codes."""
