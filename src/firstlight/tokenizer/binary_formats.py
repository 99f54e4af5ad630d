"""Read tokenizers from binary files: llama2.c's and llm.c's tokenizer.bin."""

from pathlib import Path

from firstlight.errors import TokenizerError
from firstlight.files import BoundedReader
from firstlight.tokenizer.from_vocab import VocabTable, build_byte_level_bpe, build_sentencepiece_bpe
from firstlight.tokenizer.merges import recover_merge
from firstlight.tokenizer.patterns import PATTERNS
from firstlight.tokenizer.tokenizer import Tokenizer
from firstlight.tokenizer.tokenizer_json import bytes_to_token

LLMC_MAGIC = 20240328


def read_llama2c(path: Path) -> Tokenizer:
    """Read llama2.c's tokenizer.bin: scores and pieces; ``<s>`` both starts a text and ends the previous one.

    Raises:
        TokenizerError: a damaged file.
    """
    file = BoundedReader(path, TokenizerError)
    file.unpack("I")  # length of the longest piece
    tokens, scores = [], []
    while file.remaining:
        score, length = file.unpack("fI")
        tokens.append(file.read_text(length).replace(" ", "▁"))
        scores.append(score)
    if len(tokens) < 3 or [token.strip() for token in tokens[:3]] != ["<unk>", "<s>", "</s>"]:
        raise TokenizerError(
            "is not a llama2.c tokenizer", where=path, found=str(tokens[:3])[:80], expected="<unk> <s> </s>"
        )
    # llama2.c stores these two with line breaks around them, for its own output.
    tokens[1:3] = "<s>", "</s>"
    table = VocabTable(tokens, eot_id=1, special_ids=frozenset({0, 1, 2}), bos_id=1, unk_id=0, source=path)
    return build_sentencepiece_bpe(table, scores, add_prefix_space=True)


def read_llmc(path: Path) -> Tokenizer:
    """Read llm.c's gpt2_tokenizer.bin: the bytes of each token, in rank order, from which merges are recovered.

    Raises:
        TokenizerError: a damaged file, or an unsupported version.
    """
    file = BoundedReader(path, TokenizerError)
    magic, version, size, eot_id, *_ = file.unpack("256I")
    if magic != LLMC_MAGIC or version not in (1, 2):
        raise TokenizerError("is not an llm.c tokenizer", where=path, found=f"magic {magic}, version {version}")
    file.require(2 * size)
    eot_id = eot_id if version == 2 else size - 1
    token_bytes = [file.read(*file.unpack("B")) for _ in range(size)]
    ranks = {data: i for i, data in enumerate(token_bytes) if i != eot_id}
    if len(ranks) != size - 1 or any(bytes([b]) not in ranks for b in range(256)):
        raise TokenizerError("has a duplicate token, or lacks tokens for some bytes", where=path)
    pairs = (recover_merge(data, rank, ranks) for data, rank in ranks.items())
    merges = [(bytes_to_token(pair[0]), bytes_to_token(pair[1])) for pair in pairs if pair is not None]
    tokens = [
        data.decode("utf-8", "replace") if i == eot_id else bytes_to_token(data) for i, data in enumerate(token_bytes)
    ]
    table = VocabTable(tokens, eot_id, special_ids=frozenset({eot_id}), source=path)
    return build_byte_level_bpe(table, merges, [PATTERNS["gpt2"]])
