"""The config of a run, its folder, and everything that is built from both."""
