"""The Jinja environment of this room's templates: escaping always on, a missing name is an error."""

import base64
import hashlib
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@cache
def environment() -> Environment:
    """Return the environment, with ``style``, ``script`` and the hash that lets only that script run."""
    environment = Environment(
        loader=PackageLoader("firstlight.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _source(environment, "script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment.globals.update(
        style=Markup(_source(environment, "style.css")),  # noqa: S704 - our own package data
        script=Markup(script),  # noqa: S704 - our own package data
        script_hash=f"sha256-{digest}",
    )
    return environment


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
