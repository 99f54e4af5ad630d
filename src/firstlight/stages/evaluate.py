"""``evaluate``: loss, perplexity and bits per byte of a model on any text, with those of baselines without context.

For ids and images, which are not text: bits per token, or per dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from firstlight import parallel, progress
from firstlight.config import given_unused, parse_overrides, read_toml, resolve
from firstlight.corpus import CorpusSettings, open_corpus, unused_by_readers
from firstlight.errors import ConfigError, StoreError, UsageError
from firstlight.evaluation import EncodedText, baseline_likelihoods, count_ids, encode_text, text_likelihood
from firstlight.files import MANIFEST
from firstlight.lm import LM
from firstlight.stages.score_sequences import EvaluateSettings, TextResult, no_text_error, score_sequences
from firstlight.stages.unknown_text import NOT_RECORDED, split_unknown
from firstlight.stages.vocab_settings import kind_of, unused_of_kind
from firstlight.store import TokenStore, open_store, unigram_counts
from firstlight.tokenizer import report_unknown
from firstlight.types import Paths, UnknownText, as_list


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """The likelihood metrics of a model.

    Attributes:
        model: its directory.
        stride: tokens between the starts of two windows.
        texts: metrics of each text.
    """

    model: Path
    stride: int
    texts: list[TextResult]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {"model": self.model, "stride": self.stride, "texts": [text.to_json() for text in self.texts]}


def evaluate(
    model: str | Path | LM,
    text: Paths = (),
    *,
    stride: int | None = None,
    device: str = "auto",
    int8: bool = False,
    overrides: Sequence[str] = (),
) -> EvaluateResult:
    """Compute the likelihood of texts, or of the validation split of the model's run.

    Args:
        model: a run, checkpoint or model directory, or a loaded model.
        text: files, folders or named corpora, of ids or images for a model of those; each is scored separately.
        stride: tokens between the starts of two windows; by default the block size.
        device: auto, cpu, cuda, cuda:N or mps.
        int8: quantize the matrices to eight bits.
        overrides: settings of how the texts are read, as ``corpus.encoding=gb18030``.

    Raises:
        UsageError: no text is given and the model has no run; or the stride exceeds the block size.
        CompatibilityError: the run's token store was made with another tokenizer.
    """
    text = as_list(text)
    given = parse_overrides(overrides)
    settings = resolve(EvaluateSettings, given)
    lm = model if isinstance(model, LM) else _load(model, device)
    unused = {} if lm.vocab is None else unused_of_kind(kind_of(lm.vocab))
    if lm.tokenizer is not None:
        unused |= unused_by_readers(text, settings.corpus)
    if not text:
        why = "applies to --text, not to the validation split of the model's run"
        unused = dict.fromkeys(EvaluateSettings.model_fields, why)
    for key, (value, why) in given_unused(given, unused).items():
        raise ConfigError(why, where=key, found=value, fix="Leave it out.")
    lm = lm.quantize_int8() if int8 else lm
    step = lm.config.block_size if stride is None else stride
    if not 1 <= step <= lm.config.block_size:
        raise UsageError(
            "exceeds the model's block size" if step > 0 else "is not positive",
            where="stride",
            found=step,
            expected=f"at least 1, at most {lm.config.block_size}",
        )
    store = find_token_store(lm, needed=not text)
    if lm.codec is not None:
        return EvaluateResult(
            lm.source or Path(), step, list(score_sequences(lm, lm.codec, text, store, step, settings))
        )
    counts = None if store is None else unigram_counts(store.train)
    texts = [_score(lm, encoded, step, counts) for encoded in _encode_texts(lm, text, store, settings.corpus)]
    return EvaluateResult(lm.source or Path(), step, texts)


def _load(model: str | Path, device: str) -> LM:
    """Load a model with weights in fp32, so that its loss is that of training."""
    device_context = parallel.resolve_hardware(parallel.HardwareSettings.model_validate({"device": device}))
    return LM.load_fp32(model).to(device_context)


def find_token_store(lm: LM, *, needed: bool) -> TokenStore | None:
    """Open the token store of a checkpoint's run; where it is not ``needed``, a missing or other one is None."""
    vocab = lm.vocab
    if lm.source is None or vocab is None:
        return None
    folder, verify = store_folder(lm.source.resolve().parent.parent)
    if not (folder / MANIFEST).is_file():
        return None
    try:
        store = open_store(
            folder,
            tokenizer_hash=vocab.hash if needed else None,
            verify=verify,
        )
    except StoreError as error:
        if needed:
            raise
        progress.warn(f"the run's training text cannot be read and is not used: {error}")
        return None
    return store if store.tokenizer_hash == vocab.hash else None


def store_folder(run: Path) -> tuple[Path, bool]:
    """Return the folder of a run's token store, and whether the run's settings say that it is verified."""
    folder, settings = run / "data", _read_settings(run)
    if not folder.is_dir():
        folder = Path(settings.get("run", {}).get("store") or folder)
    return folder, settings.get("data", {}).get("verify") is not False


def _read_settings(run: Path) -> dict[str, Any]:
    try:
        return read_toml(run / "run.toml")
    except UsageError:  # a model directory outside a run, or a damaged file
        return {}


def _encode_texts(
    lm: LM, text: Sequence[str], store: TokenStore | None, reading: CorpusSettings
) -> Iterator[EncodedText]:
    if text:
        if lm.tokenizer is None:
            raise UsageError("the model has no tokenizer, so it cannot read text", where=lm.source)
        for source in open_corpus(text, reading, separate=True).sources:
            yield encode_text(source.name, source.documents(), lm.tokenizer, lm.start_id)
    elif store is not None:
        unknown = UnknownText() if lm.tokenizer is None else split_unknown(store.valid, lm.tokenizer)
        yield EncodedText("validation split", np.asarray(store.valid.tokens), store.valid.n_bytes, unknown)
    else:
        raise no_text_error(lm)


def _score(lm: LM, text: EncodedText, stride: int, counts: np.ndarray | None) -> TextResult:
    if len(text.ids) < 2 or not text.n_bytes:
        raise UsageError("contains no text to score", where=text.name)
    n_tokens, unknown = len(text.ids) - 1, text.unknown
    report_unknown(text.name, unknown, n_tokens, text.n_bytes)
    likelihood, interval = text_likelihood(lm, text, stride=stride)
    found = None if lm.tokenizer is None else lm.tokenizer.text_bytes(unknown, n_tokens)
    if unknown.n_bytes is None:
        progress.warn(f"{text.name}: {NOT_RECORDED}; name the text itself with --text to have them")
    lengths, nats, characters = (None,) * 3 if found is None else (found.lengths, found.nats, found.characters)
    target_counts = count_ids(text.ids[1:])
    baselines = baseline_likelihoods(
        lm.config.vocab_size or 1, counts, target_counts, lengths, more_nats=nats, characters=characters
    )
    return TextResult(text.name, n_tokens, text.n_bytes, likelihood, baselines, interval, unknown=unknown)
