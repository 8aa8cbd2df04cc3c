"""What every program does the same way."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from absl import app, logging

MENDABLE = (ValueError, OSError, FloatingPointError, MemoryError, ModuleNotFoundError)
"""What a user can mend: these end in one line. Anything else is a fault of ours and keeps its traceback."""


@contextmanager
def alone(folder: Path, wait: bool = True) -> Iterator[None]:
    """Keep a folder, made where it is absent, from other programs; the system lets go when this one ends, however.

    Where another has it: waits for its end, or, without `wait`, raises BlockingIOError. On Windows, which has no such
    locks, nobody is kept out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            import fcntl
        except ImportError:
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise BlockingIOError(f"{folder}: another program works in it; wait for its end") from None
            print(f"Another program works in {folder}: waiting for its end.", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def kept_if_used(folder: Path) -> Iterator[None]:
    """Remove a folder that is `alone` if nothing was written: a command that is refused leaves no empty run."""
    try:
        yield
    finally:
        with suppress(OSError):  # what went wrong before is what to say
            if [path.name for path in folder.iterdir()] == [".lock"]:
                (folder / ".lock").unlink()
                folder.rmdir()


def run(main: Callable[[list[str]], None], words: bool = False) -> None:
    """Parse flags and run main; a mistake of the user's, or Ctrl-C, ends in one line and a non-zero exit.

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
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)

    app.run(guarded)
