"""Progress as text: a full line for files, and a line that fits into the columns of a terminal."""

import unicodedata

from firstlight.progress import Event

_SUFFIXES = ("", "k", "M", "G", "T")
_SEPARATOR = " · "  # between the details of an event
_BARS = (24, 12)  # widths


def full_line(event: Event, end: str = "") -> str:
    """Return everything that an event says: ``train: 120 of 2,000 steps  loss 2.3 · …``; ``end`` follows the amount."""
    amount = _amount(event)
    return f"{event.task}{f': {amount}{end}' if amount else ' …'}{f'  {event.text}' if event.text else ''}"


def live_line(event: Event, columns: int) -> str:
    """Return a line of at most ``columns`` columns.

    In a narrow terminal it has no bar; then the last detail is left out, the amount is shortened, further details are
    left out up to the second, then the name of the task, and the remaining details. The line is ASCII where the details
    are, since terminals disagree on the width of other characters.
    """
    details = event.text.split(_SEPARATOR) if event.text else []
    amount, short, n = _amount(event), _amount(event, unit=False), len(details)
    if not amount:
        return _cut("  ".join([f"{event.task} ...", *details]), columns)
    full = f"{event.task}: {amount}"
    heads = [f"{event.task}: {_bar(event.done / event.total, width)} {amount}" for width in _BARS if event.total]
    lines = [(head, n) for head in [*heads, full]] + [(full, n - 1)]
    lines += [(f"{event.task}: {short}", k) for k in range(n - 1, 1, -1)] + [(short, k) for k in (2, 1, 0)]
    fitting = ("  ".join([head, *details[: max(k, 0)]]) for head, k in lines)
    return next((line for line in fitting if columns_of(line) <= columns), _cut(short, columns))


def columns_of(text: str) -> int:
    """Return the columns that a text takes up in a terminal; of an ambiguous character, the larger number."""
    return sum(2 if unicodedata.east_asian_width(c) in "WFA" else 1 for c in text)


def _cut(text: str, columns: int) -> str:
    while columns_of(text) > columns:
        text = text[:-1]
    return text


def _bar(fraction: float, width: int) -> str:
    done = round(min(fraction, 1.0) * width)
    return f"[{'=' * (done - 1) + '>' * (done > 0):{width}}]" if done < width else f"[{'=' * width}]"


def _amount(event: Event, *, unit: bool = True) -> str:
    """Format how far a task is: ``3.2 of 10.0 MB``, ``17 steps``; without unit ``3.2/10.0``.

    It is empty for a task that cannot count.
    """
    if not (event.unit or event.total or event.done):
        return ""
    scale, suffix = 1.0, ""
    largest = max(event.done, event.total or 0)
    if event.unit == "B":
        for suffix in _SUFFIXES:  # noqa: B007 - the suffix it stops at is used below
            if largest < 1000 * scale or suffix == _SUFFIXES[-1]:
                break
            scale *= 1000

    def number(value: float) -> str:
        return f"{value / scale:,.1f}" if suffix else f"{value:,.0f}"

    name = f" {suffix}{event.unit}" if event.unit and unit else ""
    between = " of " if unit else "/"
    return f"{number(event.done)}{between}{number(event.total)}{name}" if event.total else f"{number(event.done)}{name}"
