"""Run the command line as ``python -m firstlight``, as torchrun does."""

from firstlight.cli import main

if __name__ == "__main__":
    main()
