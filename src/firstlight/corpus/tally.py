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
        n_bad: bytes that were no UTF-8, and halves of surrogate pairs in JSON, whatever was done with them.
        dropped: reason -> documents.
        bad_bytes: where runs of such bytes begin, the first few.
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
        """Remember a place with bytes that are no UTF-8, while there are few."""
        if len(self.bad_bytes) < _LISTED:
            self.bad_bytes.append(place)

    def add(self, other: "Tally") -> None:
        """Add another reading's counts to these."""
        self.seen += other.seen
        self.documents += other.documents
        self.characters += other.characters
        self.n_bad += other.n_bad
        for place in other.bad_bytes:
            self.bad(place)
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)
