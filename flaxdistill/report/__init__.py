"""Report of runs: how well a student matches its teacher, as a page, plots, a table and JSON."""
