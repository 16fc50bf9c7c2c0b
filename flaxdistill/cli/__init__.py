"""The command line: flags, commands and exit codes."""
