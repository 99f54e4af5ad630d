"""Run the command line as ``python -m firstlight``, as torchrun does."""

import os
import sys

# ``python -m`` puts the current folder first on the import path. Files there, perhaps downloaded, must not be imported
# in place of a library; a folder of the user's own modules belongs on PYTHONPATH.
if sys.path and not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109 - pathlib is not loaded yet
    del sys.path[0]

from firstlight.cli import main

if __name__ == "__main__":
    main()
