"""Build the tokenizers that Hugging Face folders without tokenizer.json hold, by the class that they name.

These are vocab.json with merges.txt (GPT-2, Qwen 2, GPT-1), vocab.txt (BERT's WordPiece), and tokenizer.model
(SentencePiece, or the ranks of tiktoken).
"""

from collections.abc import Mapping
from pathlib import Path

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Inner

from firstlight import progress
from firstlight.errors import TokenizerError
from firstlight.files import read_json_object
from firstlight.tokenizer import sentencepiece
from firstlight.tokenizer.class_settings import BERT, GPT2
from firstlight.tokenizer.hf_files import CLASS_TOKENS, TOKENIZER_CONFIG, HFFiles
from firstlight.tokenizer.patterns import PATTERNS

VOCAB, MERGES, WORDPIECE, SENTENCEPIECE = "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model"
SLOW_FILES = (VOCAB, MERGES, WORDPIECE, SENTENCEPIECE)
_CONVERT = "Make a tokenizer.json: transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(NEW)"
_UNK = "<unk>"  # of GPT-1
_ANY = ("PreTrainedTokenizer", "TokenizersBackend")
# Classes that encode as SentencePiece does. Others number pieces in their own way, or change the text.
_SENTENCEPIECE = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer")


def is_slow(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer that this module reads."""
    has = {name for name in SLOW_FILES if (folder / name).is_file()}
    return {VOCAB, MERGES} <= has or WORDPIECE in has or SENTENCEPIECE in has


def build_slow(folder: Path, files: HFFiles) -> tuple[Inner, dict[str, str]]:
    """Build the tokenizer of a folder that ``is_slow``, without the added tokens that other files name.

    Returns:
        The tokenizer, and the special tokens of its class by name.

    Raises:
        TokenizerError: a damaged file, or an unsupported class.
    """
    if (folder / VOCAB).is_file() and (folder / MERGES).is_file():
        _check_class(files, (*GPT2, "Qwen2Tokenizer", "OpenAIGPTTokenizer"), folder)
        return _bpe(folder, files), {}
    if (folder / SENTENCEPIECE).is_file():
        _check_class(files, _SENTENCEPIECE, folder)
        return build_sentencepiece(folder / SENTENCEPIECE, files)
    _check_class(files, BERT, folder)
    if files.config.get("tokenizer_class") is None:
        progress.notice(f"{folder / WORDPIECE}: read as that of a BertTokenizer")
    return _wordpiece(folder / WORDPIECE, files)


def build_sentencepiece(path: Path, files: HFFiles) -> tuple[Inner, dict[str, str]]:
    """Build the tokenizer of a SentencePiece model, and return the special tokens that it names.

    Raises:
        TokenizerError: it is damaged, or of an unsupported type.
    """
    model = sentencepiece.read_model(path)
    legacy = files.flag("legacy", default=files.config.get("tokenizer_class") is None)
    inner = sentencepiece.build(model, legacy=legacy, add_prefix=files.flag("add_prefix_space", default=True))
    inner.add_special_tokens(model.special)
    return inner, model.named


def _bpe(folder: Path, files: HFFiles) -> Inner:
    vocab, merges, name = read_vocab(folder / VOCAB), read_merges(folder / MERGES), files.class_name
    if name == "OpenAIGPTTokenizer":
        return word_end_bpe(vocab, merges)
    return byte_level(
        vocab,
        merges,
        pattern=PATTERNS["qwen2" if name == "Qwen2Tokenizer" else "gpt2"],
        nfc=name == "Qwen2Tokenizer",
        add_prefix_space=files.flag("add_prefix_space", default=False),
    )


def byte_level(
    vocab: Mapping[str, int],
    merges: list[tuple[str, str]],
    *,
    pattern: str = PATTERNS["gpt2"],
    nfc: bool = False,
    add_prefix_space: bool = False,
) -> Inner:
    """Build byte-level BPE.

    Args:
        vocab: ids by token, in GPT-2's printable characters.
        merges: by rank.
        pattern: that splits a text into words.
        nfc: normalize text to NFC.
        add_prefix_space: put a space in front of a text that has none.
    """
    inner = Inner(models.BPE(vocab=dict(vocab), merges=merges))
    if nfc:
        inner.normalizer = normalizers.NFC()
    if pattern == PATTERNS["gpt2"]:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=True)
    else:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=False)
        inner.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    inner.decoder = decoders.ByteLevel()
    return inner


def word_end_bpe(vocab: Mapping[str, int], merges: list[tuple[str, str]]) -> Inner:
    """Build GPT-1's BPE: lower case, no accents, punctuation split off, ``</w>`` at the end of a word."""
    inner = Inner(models.BPE(vocab=dict(vocab), merges=merges, end_of_word_suffix="</w>", unk_token=_UNK))
    inner.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.BPEDecoder(suffix="</w>")
    inner.add_special_tokens([_UNK])
    return inner


def read_vocab(path: Path) -> dict[str, int]:
    """Read a table of ids by token.

    Raises:
        TokenizerError: it is something else.
    """
    table = read_json_object(path, TokenizerError)
    bad = next((token for token, i in table.items() if type(i) is not int or i < 0), None)
    if bad is not None:
        raise TokenizerError("is not a table of ids by token", where=path, found=f"{bad!r}: {str(table[bad])[:40]}")
    names: dict[int, str] = {}
    for token, i in table.items():
        if names.setdefault(i, token) != token:
            raise TokenizerError("two tokens of one id", where=path, found=f"{names[i]!r} and {token!r}, id {i}")
    return table


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Read the pairs of merges.txt, one per line.

    Raises:
        TokenizerError: it is not UTF-8, or a line is not a pair; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"is not UTF-8: {error.reason} at byte {error.start:,}", where=path) from error
    pairs = []
    # str.splitlines would also split at other characters than LF, which a merge may contain.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line or line.startswith("#version"):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise TokenizerError(
                "is not a pair of tokens", where=f"{path}:{number}", found=repr(line[:40]), expected="two, and a space"
            )
        pairs.append((pair[0], pair[1]))
    return pairs


def _wordpiece(path: Path, files: HFFiles) -> tuple[Inner, dict[str, str]]:
    """BERT's WordPiece: lower case unless ``do_lower_case`` is false, Chinese characters split off."""
    if not files.flag("do_basic_tokenize", default=True) or files.config.get("never_split"):
        key = "never_split" if files.config.get("never_split") else "do_basic_tokenize"
        raise TokenizerError("is not supported", where=f"{path.parent / TOKENIZER_CONFIG}: {key}", fix=_CONVERT)
    lines = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    vocab = {token: i for i, token in enumerate(lines)}
    named = {key: token for key, token in CLASS_TOKENS["BertTokenizer"].items() if token in vocab}
    unk = files.special.get("unk_token") or "[UNK]"
    if unk not in vocab:
        raise TokenizerError("has no token for unknown words", where=path, expected=unk)
    accents = files.config.get("strip_accents")
    inner = Inner(models.WordPiece(vocab, unk_token=unk))
    inner.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=files.flag("tokenize_chinese_chars", default=True),
        strip_accents=None if accents is None else bool(accents),
        lowercase=files.flag("do_lower_case", default=True),
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    progress.notice(
        f"{path}: BERT's [CLS] and [SEP] around each text are dropped, since texts are encoded without them"
    )
    return inner, named


def _check_class(files: HFFiles, known: tuple[str, ...], folder: Path) -> None:
    name = files.class_name
    if files.config.get("tokenizer_class") is not None and name not in (*_ANY, *known):
        raise TokenizerError(
            "unsupported class of tokenizer",
            where=f"{folder / TOKENIZER_CONFIG}: tokenizer_class",
            found=name,
            expected=f"{', '.join(known)}, or a folder with tokenizer.json",
            fix=_CONVERT,
        )
