"""The config of a run and its folder; building and evaluating a run."""
