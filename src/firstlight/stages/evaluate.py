"""``evaluate``: loss, perplexity and bits per byte on any text, beside what models without context score.

Of ids and images that are no text: bits per token, or per dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight import parallel, progress
from firstlight.config import read_toml
from firstlight.corpus import CorpusSettings, open_corpus
from firstlight.errors import StoreError, UsageError
from firstlight.evaluation import EncodedText, baseline_likelihoods, count, encode_text, text_likelihood
from firstlight.files import MANIFEST
from firstlight.lm import LM
from firstlight.stages.score_sequences import TextResult, no_text, score_sequences
from firstlight.store import TokenStore, unigram_counts


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What was evaluated, with which stride, and what came out."""

    model: Path
    stride: int
    texts: list[TextResult]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; of what is no text, without bytes."""
        return {"model": self.model, "stride": self.stride, "texts": [text.to_json() for text in self.texts]}


def evaluate(
    model: str | Path | LM,
    text: Sequence[str] = (),
    *,
    stride: int | None = None,
    device: str = "auto",
    int8: bool = False,
) -> EvaluateResult:
    """Score texts, or the valid split of the run that the model belongs to.

    Args:
        model: where a model lies, or a loaded one.
        text: files, folders or named corpora, of ids or images for a model of those; each is scored by itself.
        stride: tokens that each window moves on by; by default the block size.
        device: auto, cpu, cuda, cuda:N or mps.
        int8: score with the matrices in eight bits.

    Raises:
        UsageError: no text is given and the model belongs to no run; or a stride beyond the block size.
        CompatibilityError: the run's token store was made with another tokenizer.
    """
    lm = model if isinstance(model, LM) else _load(model, device)
    lm = lm.quantize_int8() if int8 else lm
    step = lm.config.block_size if stride is None else stride
    if not 1 <= step <= lm.config.block_size:
        raise UsageError(
            "is longer than the model sees" if step > 0 else "moves on by nothing",
            where="stride",
            found=step,
            expected=f"at least 1, at most {lm.config.block_size}",
        )
    found = find_token_store(lm, needed=not text)
    if lm.codec is not None:
        return EvaluateResult(lm.source or Path(), step, list(score_sequences(lm, lm.codec, text, found, step)))
    counts = None if found is None else unigram_counts(found.train)
    return EvaluateResult(lm.source or Path(), step, [_score(lm, s, step, counts) for s in _streams(lm, text, found)])


def _load(model: str | Path, device: str) -> LM:
    """Load a model whose weights keep their precision, so that it scores as it did in training."""
    device_context = parallel.resolve_hardware(parallel.HardwareSettings.model_validate({"device": device}))
    return LM.load_fp32(model).to(device_context)


def find_token_store(lm: LM, *, needed: bool) -> TokenStore | None:
    """Return the token store of the run that a checkpoint lies in; where it is not ``needed``, only a fitting one."""
    words = lm.vocab
    if lm.source is None or words is None:
        return None
    run = lm.source.resolve().parent.parent
    folder = run / "data"
    if not folder.is_dir() and (run / "run.toml").is_file():
        folder = Path(read_toml(run / "run.toml").get("run", {}).get("store") or folder)
    if not (folder / MANIFEST).is_file():
        return None
    try:
        store = TokenStore.open(folder, tokenizer_hash=words.hash if needed else None)
    except StoreError as error:
        if needed:
            raise
        progress.warn(f"the text that the run was trained on is left out: {error}")
        return None
    return store if store.tokenizer_hash == words.hash else None


def _streams(lm: LM, text: Sequence[str], store: TokenStore | None) -> Iterator[EncodedText]:
    if text:
        if lm.tokenizer is None:
            raise UsageError("the model has no tokenizer, so it reads no text", where=lm.source)
        for source in open_corpus(list(text), CorpusSettings()).sources:
            yield encode_text(source.name, source.documents(), lm.tokenizer, lm.start_id)
    elif store is not None:
        yield EncodedText("valid split", np.asarray(store.valid.tokens), store.valid.n_bytes)
    else:
        raise no_text(lm)


def _score(lm: LM, stream: EncodedText, stride: int, counts: np.ndarray | None) -> TextResult:
    if len(stream.ids) < 2 or not stream.n_bytes:
        raise UsageError("holds no text to score", where=stream.name)
    own, interval = text_likelihood(lm, stream, stride=stride)
    lengths = None if lm.tokenizer is None else lm.tokenizer.byte_lengths()
    others = baseline_likelihoods(lm.config.vocab_size or 1, counts, count(stream.ids[1:]), lengths)
    return TextResult(stream.name, len(stream.ids) - 1, stream.n_bytes, own, others, interval)
