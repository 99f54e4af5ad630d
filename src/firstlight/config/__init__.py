"""Settings machinery: load, merge, validate once, dump, name the key. It knows no setting of ours.

One way in: defaults, preset, TOML, ``key=value``; later layers win. All layers are merged as
plain tables first and validated once at the end, so that the same text means the same on the
command line and in a file, and ``optim.lr=1e-3`` works without naming the optimiser.
"""

from firstlight.config.loading import parse_overrides, preset, preset_names, read_toml
from firstlight.config.objects import load_object
from firstlight.config.toml_writer import dump_toml, flatten
from firstlight.config.validation import Settings, TaggedSettings, TaggedUnion, merge, resolve

__all__ = [
    "Settings",
    "TaggedSettings",
    "TaggedUnion",
    "dump_toml",
    "flatten",
    "load_object",
    "merge",
    "parse_overrides",
    "preset",
    "preset_names",
    "read_toml",
    "resolve",
]
