"""``python -m flaxdistill``."""

from flaxdistill.cli.main import main

if __name__ == "__main__":
    main()
