"""What every program does the same way."""

import sys
from collections.abc import Callable

from absl import app, logging

MENDABLE = (ValueError, OSError, FloatingPointError, MemoryError, ModuleNotFoundError)
"""What a user can mend: these end in one line. Anything else is a fault of ours and keeps its traceback."""


def run(main: Callable[[list[str]], None], words: bool = False) -> None:
    """Parse flags and run main; a mistake of the user's ends in one line and a non-zero exit.

    words: the program takes words beside its flags.
    """

    def guarded(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        if len(argv) > 1 and not words:
            sys.exit(f"expected flags only, got {' '.join(argv[1:])}; see --help")
        try:
            main(argv)
        except MENDABLE as error:
            sys.exit(f"error: {error}")

    app.run(guarded)
