"""Import models and token files of other programs, and export models to other formats."""

from typing import TYPE_CHECKING

from firstlight.convert.formats import EXPORTERS, IMPORTERS, Exporter, Importer, get_exporter, get_importer
from firstlight.lazy import attach

if TYPE_CHECKING:
    from firstlight.convert.detect import read_model
    from firstlight.convert.imported_model import ImportedModel, finite_fp32, model_config

# The tables load no torch, so that ``firstlight export --help`` can list the formats at once.
__getattr__, __dir__ = attach(
    __name__,
    {"detect": ["read_model"], "imported_model": ["ImportedModel", "finite_fp32", "model_config"]},
)

__all__ = [
    "EXPORTERS",
    "IMPORTERS",
    "Exporter",
    "ImportedModel",
    "Importer",
    "finite_fp32",
    "get_exporter",
    "get_importer",
    "model_config",
    "read_model",
]
