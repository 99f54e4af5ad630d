"""Whether the validation losses of two runs are measured on the same thing."""

from firstlight.report.run_files import RunFiles, find
from firstlight.report.units import to_float

_ON_ONE_TEXT = "compare both on one text, with evaluate --text"


def incomparable(kinds: tuple[str | None, str | None], first: RunFiles, second: RunFiles) -> list[str]:
    """Return why the validation losses of two runs do not compare, a clause for each reason; empty if they do.

    What the files of a run do not say is taken to be the same.

    Args:
        kinds: pretrain or finetune, of each run.
        first: files of a run.
        second: files of the other one.
    """
    if None in kinds:
        return []
    if kinds[0] != kinds[1]:
        return ["valid loss does not compare: of next tokens in one run, of labels in the other"]
    if "finetune" in kinds:
        if _differ(find(first.contract, "store"), find(second.contract, "store")):
            return ["the rows of the tasks differ: losses and metrics compare only if the validation rows are the same"]
        return []
    found = []
    tokenizers = _differ(find(first.manifest, "tokenizer"), find(second.manifest, "tokenizer"))
    if text := _differing_text(first, second, by_ids=not tokenizers):
        found.append(f"valid loss and bits do not compare: the validation texts differ ({text}); {_ON_ONE_TEXT}")
    if tokenizers:
        found.append(
            "valid loss does not compare: it is per token, and the tokenizers differ; bits per byte of one text do"
        )
    windows = [find(files.settings, "train", "eval_windows") for files in (first, second)]
    if _differ(*windows):
        which = " and ".join("all" if n == "all" else f"{n}" for n in windows)
        found.append(
            f"valid loss and bits are of different parts of the validation text: {which} of its windows "
            "(train.eval_windows); evaluate uses all of it"
        )
    sizes = [find(files.settings, "model", "block_size") for files in (first, second)]
    if _differ(*sizes):
        found.append(
            f"valid loss and bits are measured in windows of {sizes[0]} and {sizes[1]} tokens (model.block_size): "
            "more context makes tokens easier to predict"
        )
    return found


def _differing_text(first: RunFiles, second: RunFiles, *, by_ids: bool) -> str:
    """Return the sizes of two validation texts that are known to differ, or "".

    Args:
        first: files of a run.
        second: files of the other one.
        by_ids: the ids are of one tokenizer; if not, only the numbers of bytes tell.
    """
    sums = [find(files.manifest, "files", "valid.bin", "sha256") for files in (first, second)]
    n_bytes = [to_float(find(files.manifest, "valid_bytes")) for files in (first, second)]
    if not _differ(*(sums if by_ids else n_bytes)):
        return ""
    return " and ".join("unknown size" if n is None else f"{n:,.0f} bytes" for n in n_bytes)


def _differ(first: object, second: object) -> bool:
    return None not in (first, second) and first != second
