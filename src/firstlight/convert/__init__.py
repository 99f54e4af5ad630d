"""Other formats in and out."""

from firstlight.convert.detect import read
from firstlight.convert.formats import FORMATS, writer
from firstlight.convert.imported_model import ImportedModel
from firstlight.convert.nanogpt import read_meta as nanogpt_meta

__all__ = ["FORMATS", "ImportedModel", "nanogpt_meta", "read", "writer"]
