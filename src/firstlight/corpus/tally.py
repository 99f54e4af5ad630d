"""What was read and what was dropped, and why."""

from dataclasses import asdict, dataclass, field
from typing import Any

_LISTED = 20


@dataclass(slots=True)
class Tally:
    """Counts of one reading: documents seen = documents kept + all that was dropped.

    Attributes:
        seen: documents found.
        documents: documents kept.
        characters: of the kept ones.
        dropped: reason -> documents.
        bad_bytes: places of bytes that were no UTF-8, the first few; ``n_bad`` counts all.
    """

    seen: int = 0
    documents: int = 0
    characters: int = 0
    n_bad: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    bad_bytes: list[str] = field(default_factory=list)

    def drop(self, reason: str) -> None:
        """Count a document that is left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def bad(self, place: str) -> None:
        """Count a place with bytes that are no UTF-8."""
        self.n_bad += 1
        if len(self.bad_bytes) < _LISTED:
            self.bad_bytes.append(place)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)
