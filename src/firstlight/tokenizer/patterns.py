"""Split patterns of byte-level BPE, by the name that llama.cpp gives them.

Each is the published pattern of the model named; a tokenizer stores its own copy in tokenizer.json.
"""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# The same without (?i), as llama.cpp has it for this pattern: no other letter folds to one of these.
_CONTRACTION_SUFFIX = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

PATTERNS: dict[str, str] = {
    # GPT-2's encoder.py, 2019
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # tiktoken's cl100k_base and Llama 3: numbers in groups of up to three digits
    "llama3": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",
    # Qwen 2 and 3: each digit separately
    "qwen2": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}",
    # tiktoken's o200k_base: a capital starts a new word, a contraction belongs to its word
    "gpt4o": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION_SUFFIX}"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION_SUFFIX}"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}"
    ),
}

# The pre-tokenizer of kind "char": every character is a word.
CHAR_PATTERN = r"[\s\S]"

# The decoder of kind "word" removes these spaces: Han characters, and punctuation after them, have none.
HAN_SPACE_PATTERN = r"^ (?=[\p{Han}，。！？；：、”’」』）》])"

# SentencePiece's remove_extra_whitespaces: only spaces count, but at the end also the mark that stands for one.
EDGE_SPACES, SPACE_RUN = r"\A +|[ ▁]+\z", r" {2,}"

# Patterns of published tokenizers that take linear time, or quadratic time on long runs of white space: a
# tokenizer.json with others is tried out first (``untrusted``).
KNOWN_PATTERNS: tuple[str, ...] = (
    *PATTERNS.values(),
    PATTERNS["gpt4o"].replace(_CONTRACTION_SUFFIX, f"{_CONTRACTIONS}?"),  # as in the tokenizer.json of gpt-oss
    CHAR_PATTERN,
    HAN_SPACE_PATTERN,
    EDGE_SPACES,
    SPACE_RUN,
    r"\p{Han}",
    r"\p{N}",
    r"\p{N}{1,3}",
    r"[0-9][0-9][0-9]",
    r"\s+",
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    # DeepSeek V3
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACE}",
    # BLOOM
    " ?[^(\\s|[.,!?…。，、।۔،])]+",
)
