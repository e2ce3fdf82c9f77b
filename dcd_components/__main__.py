"""``python -m dcd_components`` is the command ``dcd``."""

from dcd_components.cli import main

if __name__ == "__main__":
    main()
