"""The run directory, compatibility of its artifacts, and the orchestrator of training runs."""

from firstlight.runs.compatibility import changed_settings, check_changes, settings_hash
from firstlight.runs.directory import RunDirectory, is_token_store, read_json, write_json

__all__ = [
    "RunDirectory",
    "changed_settings",
    "check_changes",
    "is_token_store",
    "read_json",
    "settings_hash",
    "write_json",
]
