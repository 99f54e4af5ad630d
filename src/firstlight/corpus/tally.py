"""Counts of the documents that were read, kept and dropped, and why."""

from dataclasses import asdict, dataclass, field
from typing import Any

from firstlight.errors import Failure

_MAX_LOCATIONS = 20
_UNREADABLE = "unreadable"


@dataclass(slots=True)
class Tally:
    """Counts of one reading: documents seen = documents kept + documents dropped.

    Attributes:
        seen: documents found.
        documents: documents kept.
        characters: of the kept ones.
        n_bad: bytes that were not UTF-8, and halves of surrogate pairs in JSON, whether replaced or skipped.
        dropped: reason -> documents.
        bad_bytes: locations where such bytes start, the first few.
        notes: how files were read where that is not as the settings say -> files, the first few.
        bad_documents: what is wrong with documents that could not be read, the first few; all are in ``dropped``.
    """

    seen: int = 0
    documents: int = 0
    characters: int = 0
    n_bad: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    bad_bytes: list[str] = field(default_factory=list)
    bad_documents: list[str] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        """Count a dropped document."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    @property
    def n_bad_documents(self) -> int:
        """Number of documents that could not be read."""
        return self.dropped.get(_UNREADABLE, 0)

    def skip(self, error: Failure) -> None:
        """Count a document that cannot be read as seen and dropped, and record the first few errors."""
        self.seen += 1
        self.drop(_UNREADABLE)
        if len(self.bad_documents) < _MAX_LOCATIONS:
            self.bad_documents.append(str(error))

    def add_bad_bytes(self, location: str) -> None:
        """Record the location of bytes that are not UTF-8, the first few of them."""
        if len(self.bad_bytes) < _MAX_LOCATIONS:
            self.bad_bytes.append(location)

    def add_note(self, what: str, file: str) -> None:
        """Record that a file was read in another way than the settings say, the first few of each kind."""
        files = self.notes.setdefault(what, [])
        if file not in files and len(files) < _MAX_LOCATIONS:
            files.append(file)

    def add(self, other: "Tally") -> None:
        """Add another reading's counts to these."""
        self.seen += other.seen
        self.documents += other.documents
        self.characters += other.characters
        self.n_bad += other.n_bad
        for location in other.bad_bytes:
            self.add_bad_bytes(location)
        for what, files in other.notes.items():
            for file in files:
                self.add_note(what, file)
        self.bad_documents = (self.bad_documents + other.bad_documents)[:_MAX_LOCATIONS]
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)
