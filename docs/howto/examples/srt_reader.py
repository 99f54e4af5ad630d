"""A reader of subtitles (.srt): each cue is a document, without its number, times and markup."""

import re
from collections.abc import Iterator
from pathlib import Path

from firstlight.corpus import CorpusSettings, Tally
from firstlight.corpus.decode import decode_chunks, split_stream
from firstlight.errors import CorpusError
from firstlight.files.compression import open_compressed
from firstlight.types import Document

TIMES = re.compile(r"\d+:\d\d:\d\d[,.]\d+ --> \d+:\d\d:\d\d[,.]\d+")
MARKUP = re.compile(r"</?\w+>")


class SrtReader:
    """Reads .srt and, compressed, .srt.gz, .srt.xz and so on."""

    suffixes = (".srt",)
    extra: str | None = None  # the optional dependency group that it needs

    def read(self, path: Path, settings: CorpusSettings, tally: Tally) -> Iterator[Document]:
        """Yield the text of each cue; a whole file is never in memory."""
        limits = settings.read_limits
        with open_compressed(path, limits=limits) as file:
            cue: list[str] = []
            start = 1
            lines = split_stream(decode_chunks(file, str(path), settings, tally), where=path, limits=limits)
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    start = start if cue else number
                    cue.append(line)
                elif cue:
                    yield parse_cue(cue, f"{path}:{start}")
                    cue = []
            if cue:
                yield parse_cue(cue, f"{path}:{start}")


def parse_cue(lines: list[str], where: str) -> Document:
    """Make a document of the lines of a cue: its number, its times, its text."""
    if len(lines) < 2 or not TIMES.match(lines[1]):
        raise CorpusError("is not a cue", where=where, found=lines[0][:40], expected="a number, then START --> END")
    return Document(MARKUP.sub("", "\n".join(lines[2:])), where)
