"""The code blocks of a page: what is run as it stands, what with limits, and what is only checked.

A comment in the line before a block, which readers do not see, says how the tests run it:

- ``<!-- set-up -->``: the commands that install Firstlight; the tests have done what they do.
- ``<!-- long -->``, ``<!-- long: KEY=VALUE … -->``: it trains for minutes; the tests add limits to each command.
- ``<!-- file: NAME -->``: the reader saves it as a file; so do the tests.
- ``<!-- checked: REASON -->``: not run; its options, keys and files are checked (tests/architecture/test_pages.py).

``python tests/journeys/page_blocks.py`` lists the blocks that are not run.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
REASONS = ("network", "GPU", "hours", "another program", "several machines")
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>set-up|long|file|checked)(?:: (?P<rest>[^\n]*?))? -->\n)?"
    r"```(?P<language>sh|console|python)[ ]*\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
# What is added to each command of a long block.
LIMITS = {
    "pretrain": ["train.steps=3", "train.batch_tokens=512", "train.eval_windows=2"],
    "quickstart": ["train.steps=3", "train.batch_tokens=512", "train.eval_windows=2"],
    "finetune": ["train.steps=3"],
    "transfer": ["train.steps=2"],
    "verify-resume": ["--steps", "4", "--stop-at", "2"],
}
# A resumed or repeated run has the limits of the run before it.
_HAS_LIMITS = re.compile(r"--resume|--dry-run|run\.toml")
_COMMAND = re.compile(r"^((?:\w+=\S+ |torchrun .*?-m )?firstlight (\S+))(.*)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a page.

    Attributes:
        language: sh, console or python.
        mark: set-up, long, file, checked or empty.
        rest: what the mark says after its colon.
        line: its first line in the page.
    """

    language: str
    code: str
    mark: str
    rest: str
    line: int

    @property
    def commands(self) -> str:
        """The lines to run: of a console, what is typed after ``$``."""
        if self.language != "console":
            return self.code
        return "".join(f"{line[2:]}\n" for line in self.code.splitlines() if line.startswith("$ "))

    @property
    def limited(self) -> str:
        """The lines to run, with limits where the block is long."""
        if self.mark != "long" or self.language == "python":
            return self.commands
        return "".join(f"{_limit(line, self.rest.split())}\n" for line in self.commands.splitlines())


def blocks(page: Path) -> list[Block]:
    """Return the blocks of commands and of Python of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(m["language"], m["code"], m["mark"] or "", m["rest"] or "", text.count("\n", 0, m.start("code")))
        for m in _BLOCK.finditer(text)
    ]


def outline(page: Path) -> list[list[list[str]]]:
    """Return, for every block, the commands without operands, values and comments: what a translation also has."""
    return [[_outline(line) for line in block.commands.splitlines() if line.strip()] for block in blocks(page)]


def _limit(line: str, more: list[str]) -> str:
    match = _COMMAND.match(line)
    if match is None or _HAS_LIMITS.search(line):
        return line
    limits = more if more and match[2] == "pretrain" else LIMITS.get(match[2], [])
    if "--search" in line:  # it chooses the number of updates
        limits = ["max_train_rows=30"]
    keys = "|".join(re.escape(limit.partition("=")[0]) for limit in limits if "=" in limit)
    rest = re.sub(rf" (?:{keys})=\S+", "", match[3]) if keys else match[3]
    return " ".join([match[1], *limits]) + rest


def _outline(line: str) -> list[str]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a line of a longer text
        return []
    if not words or words[0] not in ("firstlight", "make", "torchrun", "python"):
        return words[:1] if words and words[0].isascii() and "=" not in line else []
    kept = [word.partition("=")[0] for word in words if word.startswith("-") or "=" in word]
    # The size of a vocabulary depends on the language.
    return [*words[:2], *(key for key in kept if not key.startswith("tokenizer."))]


PAGES = [
    *sorted(ROOT.glob("README*.md")),
    *sorted(page for page in ROOT.glob("docs/*.md") if page.name != "benchmarks.md"),
    *sorted(ROOT.glob("docs/zh/*.md")),
]

if __name__ == "__main__":
    for page in PAGES:
        for block in blocks(page):
            if block.mark == "checked":
                first = next(line for line in block.commands.splitlines() if line.strip())
                print(f"{page.relative_to(ROOT)}:{block.line}: {block.rest}: {first}")
