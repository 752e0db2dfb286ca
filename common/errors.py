"""The one error that users see, and the one place that turns it into an exit status."""

import sys
from collections.abc import Callable


class InputError(Exception):
    """Something the user gave is wrong: a parameter, a path, a file.

    The message is one line that says what is wrong, where, what is allowed and what to do.
    """


def run_main(main: Callable[[], int | None]) -> None:
    """Run `main` and exit: status 2 with one line on stderr for an InputError, else main's own status."""
    try:
        status = main()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    sys.exit(status or 0)
