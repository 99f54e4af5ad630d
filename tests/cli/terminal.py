"""A small terminal for tests: what a person sees after carriage returns, line feeds and erasures."""

import re

_TOKEN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|.", re.DOTALL)


class Terminal:
    """A screen of lines, wrapped at its width; ``resize`` wraps them again, as most terminals do, or cuts them.

    Args:
        columns: the width.
        reflows: whether a line that no longer fits continues on the next row.
    """

    def __init__(self, columns: int, *, reflows: bool = True) -> None:
        self.columns = columns
        self.reflows = reflows
        self._lines = [""]  # as printed, however they are wrapped
        self._line, self._column = 0, 0

    @property
    def text(self) -> list[str]:
        """The lines, without spaces at their ends."""
        return [line.rstrip() for line in self._lines]

    def feed(self, text: str) -> None:
        """Print a text."""
        for token in _TOKEN.findall(text):
            if token == "\r":
                # To the start of the row, not of a line that was wrapped.
                self._column -= self._column % self.columns
            elif token == "\n":
                self._line, self._column = self._line + 1, 0
                if self._line == len(self._lines):
                    self._lines.append("")
            elif token == "\x1b[J":
                self._lines[self._line :] = [self._lines[self._line][: self._column]]
            elif not token.startswith("\x1b"):
                line = self._lines[self._line].ljust(self._column)
                self._lines[self._line] = f"{line[: self._column]}{token}{line[self._column + 1 :]}"
                self._column += 1

    def resize(self, columns: int) -> None:
        """Change the width."""
        if not self.reflows:
            self._lines = [line[:columns] for line in self._lines]
            self._column = min(self._column, columns - 1)
        self.columns = columns
