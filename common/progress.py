"""Progress of long work: a bar where there is a terminal, a line now and then where there is none."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts steps of a known total and shows rate and time left.

    In a terminal this is a tqdm bar; in a log file, a line at most every 15 seconds and one at the end.
    """

    def __init__(self, total: int, start: int = 0, unit: str = "step", quiet: bool = False) -> None:
        self.total, self.done, self.unit, self.quiet = total, start, unit, quiet
        self._start, self._began = start, time.monotonic()
        self._last_line = self._began
        self._note = ""
        self._bar = (
            tqdm(total=total, initial=start, unit=unit, dynamic_ncols=True)
            if sys.stderr.isatty() and not quiet
            else None
        )

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count `steps` more; `note` replaces the short text shown beside the rate."""
        self.done += steps
        if note is not None:
            self._note = note
        if self._bar is not None:
            if note is not None:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)
        elif not self.quiet and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print_line()

    def advance_to(self, done: int) -> None:
        """Count on to `done` steps: a part that ended early, or was finished before, counts whole."""
        self.advance(max(0, done - self.done))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the bar, or print the last line."""
        if self._bar is not None:
            self._bar.close()
        elif not self.quiet and self.done > self._start:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        rate = (self.done - self._start) / max(self._last_line - self._began, 1e-9)
        left = max(self.total - self.done, 0) / max(rate, 1e-9)
        minutes, seconds = divmod(round(left), 60)
        text = f"{self.unit} {self.done}/{self.total} ({100 * self.done / max(self.total, 1):.0f} %)"
        text += f", {rate:.2f} {self.unit}s/s, {minutes}:{seconds:02d} left"
        print(f"{text}, {self._note}" if self._note else text, file=sys.stderr, flush=True)
