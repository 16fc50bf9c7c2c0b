"""The report: what a distillation kept, measured once, shown as a page, as plots, as a table and as JSON."""
