"""Load, merge, validate and write settings, and resolve ``package.module:Name``. It defines no setting itself.

Settings come from defaults, a preset, a TOML file and ``key=value`` arguments; later layers override earlier ones. All
layers are merged as plain tables and validated once at the end, so that the same text means the same on the command
line and in a file, and ``optim.lr=1e-3`` works without naming the optimizer.
"""

from firstlight.config.loading import narrow, narrow_settings, parse_overrides, preset, preset_names, read_toml
from firstlight.config.objects import external_origin, load_object, trust_files, trust_references
from firstlight.config.settings import Settings, TaggedSettings, TaggedUnion
from firstlight.config.tables import flatten, merge, nested, without_keys
from firstlight.config.toml_writer import dump_toml, format_override
from firstlight.config.unused import given_unused, used_settings
from firstlight.config.validation import of_named_members, resolve, used_layer, validate

__all__ = [
    "Settings",
    "TaggedSettings",
    "TaggedUnion",
    "dump_toml",
    "external_origin",
    "flatten",
    "format_override",
    "given_unused",
    "load_object",
    "merge",
    "narrow",
    "narrow_settings",
    "nested",
    "of_named_members",
    "parse_overrides",
    "preset",
    "preset_names",
    "read_toml",
    "resolve",
    "trust_files",
    "trust_references",
    "used_layer",
    "used_settings",
    "validate",
    "without_keys",
]
