"""Read JSON files that may be damaged or made to harm: whatever is wrong with one is one error that names it.

What is written is JSON too, which has no NaN and no infinity.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from firstlight.errors import Failure
from firstlight.files.json_stream import json_problem
from firstlight.files.limits import open_regular

_MAX_BYTES = 256 << 20  # the largest published tokenizer.json has 60 MB


def read_json(path: Path, error: type[Failure], *, pairs_hook: Callable[[Any], Any] | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        error: class of the error.
        pairs_hook: makes an object of its pairs, as in ``json.loads``.

    Raises:
        FileNotFoundError: there is no such file.
        Failure: of the class ``error``: it cannot be read, or is not JSON that Python can hold.
    """
    try:
        with open_regular(path, error=error) as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise error("is too large for a JSON file", where=path, expected=f"at most {_MAX_BYTES:,} bytes")
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=pairs_hook)
    except FileNotFoundError:
        raise
    except OSError as refused:
        raise error(f"cannot be read: {refused.strerror or refused}", where=path) from refused
    except UnicodeDecodeError as refused:
        raise error(f"is not UTF-8: {refused.reason} at byte {refused.start:,}", where=path) from refused
    except (ValueError, RecursionError) as refused:
        raise error(f"is not valid JSON: {json_problem(refused)}", where=path) from refused


def read_json_object(path: Path, error: type[Failure]) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: there is no such file.
        Failure: of the class ``error``: as ``read_json``, or it holds something else.
    """
    table = read_json(path, error)
    if not isinstance(table, dict):
        raise error("is not a JSON object", where=path)
    return table


def finite_json(value: Any) -> Any:
    """Replace numbers that JSON does not have by the strings NaN, Infinity and -Infinity, in objects and lists too."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    return value
