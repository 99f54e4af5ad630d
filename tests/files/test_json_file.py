"""What is written as JSON is JSON: it has no NaN."""

import json
import math

from firstlight.files import finite_json


def test_numbers_that_json_lacks_become_strings() -> None:
    table = {"loss": math.nan, "list": [1.5, math.inf, (-math.inf,)], "n": 3, "text": "NaN", "none": None}
    found = finite_json(table)
    assert found == {"loss": "NaN", "list": [1.5, "Infinity", ["-Infinity"]], "n": 3, "text": "NaN", "none": None}
    assert "NaN," not in json.dumps(found, allow_nan=False).replace('"NaN"', "")
