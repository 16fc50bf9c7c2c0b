"""``python -m flaxdistill``."""

from flaxdistill.cli import main

main()
