"""The run directory, compatibility of its artifacts, and the orchestrator of training runs."""

from firstlight.runs.compatibility import (
    again_command,
    changed_settings,
    check_changes,
    code_hash,
    describe_changes,
    settings_hash,
)
from firstlight.runs.directory import RunDirectory, is_token_store, read_json, read_json_object, write_json
from firstlight.runs.orchestrator import run_recipe
from firstlight.runs.outside import OutsideInput, outside_inputs
from firstlight.runs.recipe import Recipe, RunResult
from firstlight.runs.request import Layers, Request, resolve_request

__all__ = [
    "Layers",
    "OutsideInput",
    "Recipe",
    "Request",
    "RunDirectory",
    "RunResult",
    "again_command",
    "changed_settings",
    "check_changes",
    "code_hash",
    "describe_changes",
    "is_token_store",
    "outside_inputs",
    "read_json",
    "read_json_object",
    "resolve_request",
    "run_recipe",
    "settings_hash",
    "write_json",
]
