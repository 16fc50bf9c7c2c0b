"""``python -m flaxdistill``."""

from flaxdistill.cli import main

if __name__ == "__main__":
    main()
