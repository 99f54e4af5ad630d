"""Format numbers for people: 1.2 M, 3 min 12 s, 600 kB, with a non-breaking space before the unit."""

import math

_SPACE = "\u00a0"
_NOT_FINITE = {"nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"}


def to_float(value: object) -> float | None:
    """Convert a JSON value to a float, or None; non-finite numbers are strings in JSON."""
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


def format_count(value: float) -> str:
    """Format a count: exact below 10,000, above in k, M, G, T."""
    return _non_finite(value) or (f"{value:,.0f}" if abs(value) < 10_000 else _scaled(value, ["", "k", "M", "G", "T"]))


def format_bytes(n_bytes: float) -> str:
    """Format a size in bytes."""
    return _non_finite(n_bytes) or _scaled(n_bytes, ["B", "kB", "MB", "GB", "TB", "PB"])


def format_duration(seconds: float) -> str:
    """Format a duration with its two largest units."""
    if text := _non_finite(seconds):
        return text
    if seconds < 9.95:
        return f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((i for i, (n, _) in enumerate(parts) if n), 3)
    return " ".join(f"{n}{_SPACE}{unit}" for n, unit in parts[first : first + 2] if n)


def format_number(value: float, digits: int = 4) -> str:
    """Format a measured value with ``digits`` decimals; fewer if it is large, three significant ones if tiny."""
    if text := _non_finite(value):
        return text
    if abs(value) >= 1e6 or 0 < abs(value) < 10 ** (1 - digits):
        return f"{value:.3g}"
    before = len(str(int(abs(value))))
    return f"{value:,.{max(0, digits + 1 - before)}f}"


def format_percent(ratio: float) -> str:
    """Format a ratio between 0 and 1 as a percentage."""
    return _non_finite(ratio) or f"{100 * ratio:.1f}{_SPACE}%"


def _non_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "" if math.isfinite(value) else "−∞" if value < 0 else "∞"


def _scaled(value: float, units: list[str]) -> str:
    for unit in units:
        # 999.5 and above would be rounded to 1,000.
        if abs(value) < 999.5 or unit == units[-1]:
            break
        value /= 1000
    text = f"{value:.1f}" if abs(value) < 99.95 else f"{value:,.0f}"
    return f"{text.removesuffix('.0')}{_SPACE}{unit}".rstrip(_SPACE)
