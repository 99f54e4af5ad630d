"""Numbers as people read them: 1.2 M, 3 min 12 s, 600 kB. A non-breaking space joins number and unit."""

import math

_SPACE = "\u00a0"
_NOT_FINITE = {"nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"}


def number(value: object) -> float | None:
    """Return a figure of a JSON file as a float, also one written as a string since it is not finite; else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if isinstance(value, str) and value.strip().lower() in _NOT_FINITE:
        return float(value)
    return None


def count(value: float) -> str:
    """Write a count: exact below 10,000, then in k, M, G, T."""
    return _odd(value) or (f"{value:,.0f}" if abs(value) < 10_000 else _scaled(value, ["", "k", "M", "G", "T"]))


def size(n_bytes: float) -> str:
    """Write a size in bytes."""
    return _odd(n_bytes) or _scaled(n_bytes, ["B", "kB", "MB", "GB", "TB", "PB"])


def duration(seconds: float) -> str:
    """Write a time span by its two largest units."""
    if odd := _odd(seconds):
        return odd
    if seconds < 9.95:
        return f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((i for i, (n, _) in enumerate(parts) if n), 3)
    return " ".join(f"{n}{_SPACE}{unit}" for n, unit in parts[first : first + 2] if n)


def figure(value: float, digits: int = 4) -> str:
    """Write a measured figure with ``digits`` after the point; fewer where it is large, all that count where tiny."""
    if odd := _odd(value):
        return odd
    if abs(value) >= 1e6 or 0 < abs(value) < 10 ** (1 - digits):
        return f"{value:.3g}"
    before = len(str(int(abs(value))))
    return f"{value:,.{max(0, digits + 1 - before)}f}"


def percent(share: float) -> str:
    """Write a share between 0 and 1."""
    return _odd(share) or f"{100 * share:.1f}{_SPACE}%"


def _odd(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "" if math.isfinite(value) else "−∞" if value < 0 else "∞"


def _scaled(value: float, units: list[str]) -> str:
    for unit in units:
        # The bound is where rounding would show 1,000.
        if abs(value) < 999.5 or unit == units[-1]:
            break
        value /= 1000
    text = f"{value:.1f}" if abs(value) < 99.95 else f"{value:,.0f}"
    return f"{text.removesuffix('.0')}{_SPACE}{unit}".rstrip(_SPACE)
