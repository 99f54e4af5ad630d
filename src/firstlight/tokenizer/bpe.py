"""Train byte-level BPE (Sennrich et al. 2016, over bytes as in GPT-2) with rustbpe, or with tokenizers, half as fast.

Both merge the most frequent pair first. Ties are broken by bytes in rustbpe and by characters in tokenizers, so their
vocabularies may differ; each is deterministic.
"""

import contextlib
from collections.abc import Iterable, Iterator

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Inner

from firstlight import progress, signals
from firstlight.tokenizer.merges import recover_merge
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.tokenizer_json import bytes_to_token, bytes_to_unicode

# Chunks of text that rustbpe buffers.
_BUFFER_SIZE = 64
# Bytes per token: a run of one repeated character makes ever longer tokens, which are useless for other text.
_MAX_TOKEN_BYTES = 128
# Extra merges to train, which replace tokens that are too long.
_EXTRA_MERGES = 64


def byte_level_bpe(model: models.BPE, pattern: str) -> Inner:
    """Wrap a BPE model into a byte-level tokenizer that splits text by a pattern of PATTERNS."""
    inner = Inner(model)
    split = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    inner.decoder = decoders.ByteLevel()
    return inner


def train_bpe(text: Iterable[str], pattern: str, vocab_size: int, special_token: str) -> Inner:
    """Train a tokenizer of at most ``vocab_size`` tokens; fewer if the text has too few pairs.

    Args:
        text: in chunks.
        pattern: name in PATTERNS.
        vocab_size: including the special token and the 256 bytes.
        special_token: gets id 0.
    """
    try:
        import rustbpe
    except ImportError:
        progress.notice("rustbpe is not installed: training the tokenizer takes twice as long")
        return _train_with_tokenizers(text, pattern, vocab_size, special_token)
    trainer = rustbpe.Tokenizer()
    with contextlib.ExitStack() as merging:

        def chunks() -> Iterator[str]:
            yield from text
            merging.enter_context(signals.default_action())  # rustbpe holds the interpreter's lock while it merges

        trainer.train_from_iterator(
            chunks(), vocab_size - 1 + _EXTRA_MERGES, buffer_size=_BUFFER_SIZE, pattern=PATTERNS[pattern]
        )
    ranks = {token: rank for token, rank in trainer.get_mergeable_ranks() if len(token) <= _MAX_TOKEN_BYTES}
    merged = sorted((rank, token) for token, rank in ranks.items() if len(token) > 1)[: vocab_size - 257]
    pairs = [recover_merge(token, rank, ranks) for rank, token in merged]
    tokens = [special_token, *bytes_to_unicode().values(), *(bytes_to_token(token) for _, token in merged)]
    model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[(bytes_to_token(pair[0]), bytes_to_token(pair[1])) for pair in pairs if pair is not None],
    )
    inner = byte_level_bpe(model, pattern)
    inner.add_special_tokens([special_token])
    return inner


def _train_with_tokenizers(text: Iterable[str], pattern: str, vocab_size: int, special_token: str) -> Inner:
    inner = byte_level_bpe(models.BPE(), pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[special_token],
        show_progress=False,
        max_token_length=_MAX_TOKEN_BYTES,
        initial_alphabet=list(bytes_to_unicode().values()),
    )
    inner.train_from_iterator(text, trainer)
    return inner
