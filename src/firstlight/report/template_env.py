"""The Jinja environment of the report templates: autoescaping, and undefined names are errors."""

import base64
import hashlib
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from firstlight.report.language import lang_attribute
from firstlight.report.units import format_number


@cache
def environment() -> Environment:
    """Return the environment, with ``style``, ``script``, and their hashes for the content security policy."""
    environment = Environment(
        loader=PackageLoader("firstlight.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters["lang"] = lang_attribute
    for name, file in (("style", "style.css"), ("script", "script.js")):
        source = _source(environment, file)
        environment.globals[name] = Markup(source)  # noqa: S704 - our own package data
        environment.globals[f"{name}_hash"] = _digest(source)
    return environment


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    # Browsers normalise line ends to LF before they hash.
    return environment.loader.get_source(environment, name)[0].replace("\r\n", "\n")


def _digest(source: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode('ascii')}"
