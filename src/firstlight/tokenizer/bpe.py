"""Train a byte-level BPE (Sennrich et al. 2016, over bytes as in GPT-2): by rustbpe, or by tokenizers, half as fast.

Both merge the commonest pair first; of pairs equally common rustbpe takes the one whose bytes, tokenizers the one whose
characters come first, so their vocabularies may differ. Each gives the same one again for the same text.
"""

from collections.abc import Iterable

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Inner

from firstlight import progress
from firstlight.tokenizer.merges import last_merge
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.tokenizer_json import byte_characters

# Stretches of text that rustbpe holds at a time.
_HELD = 64
# Bytes of a token: a page of the same sign makes ever longer ones, which serve no other text.
_LONGEST = 128
# Merges learnt beyond those asked for, to stand in for tokens that are too long.
_SPARE = 64


def byte_level(model: models.BPE, pattern: str) -> Inner:
    """Return a tokenizer that cuts text by a pattern of PATTERNS and encodes each piece's bytes."""
    inner = Inner(model)
    split = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    inner.decoder = decoders.ByteLevel()
    return inner


def train_bpe(text: Iterable[str], pattern: str, vocab_size: int, special: str) -> Inner:
    """Return a tokenizer of at most ``vocab_size`` tokens, fewer where the text has no more pairs.

    Args:
        text: stretches of it.
        pattern: name in PATTERNS.
        vocab_size: with the special token and all 256 bytes.
        special: the token that gets id 0.
    """
    try:
        import rustbpe
    except ImportError:
        progress.notice("rustbpe is not installed: training the tokenizer takes twice as long")
        return _by_tokenizers(text, pattern, vocab_size, special)
    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(text, vocab_size - 1 + _SPARE, buffer_size=_HELD, pattern=PATTERNS[pattern])
    ranks = {token: rank for token, rank in learner.get_mergeable_ranks() if len(token) <= _LONGEST}
    joined = sorted((rank, token) for token, rank in ranks.items() if len(token) > 1)[: vocab_size - 257]
    letters = byte_characters()

    def written(data: bytes) -> str:
        return "".join(letters[b] for b in data)

    pairs = [last_merge(token, rank, ranks) for rank, token in joined]
    tokens = [special, *letters.values(), *(written(token) for _, token in joined)]
    model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[(written(pair[0]), written(pair[1])) for pair in pairs if pair is not None],
    )
    inner = byte_level(model, pattern)
    inner.add_special_tokens([special])
    return inner


def _by_tokenizers(text: Iterable[str], pattern: str, vocab_size: int, special: str) -> Inner:
    inner = byte_level(models.BPE(), pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[special],
        show_progress=False,
        max_token_length=_LONGEST,
        initial_alphabet=list(byte_characters().values()),
    )
    inner.train_from_iterator(text, trainer)
    return inner
