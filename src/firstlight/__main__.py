"""``python -m firstlight``, which torchrun needs."""

from firstlight.cli import main

if __name__ == "__main__":
    main()
