"""Settings of word vectors to train."""

from typing import Literal

from pydantic import Field

from firstlight.config import Settings


class VectorSettings(Settings):
    """Settings of ``tokenizer vectors train``."""

    method: Literal["cbow", "skipgram", "glove"] = Field(
        "skipgram", description="word2vec's CBOW or skip-gram, by gensim, or GloVe"
    )
    width: int = Field(100, ge=1, le=4096, description="dimensions of a vector")
    window: int = Field(5, ge=1, le=100, description="context words on either side of a word")
    epochs: int = Field(5, ge=1, description="passes over the text, or over GloVe's counts, which needs more: 15 to 50")
    min_count: int = Field(5, ge=1, description="ignore words that occur less often")
    max_words: int = Field(200_000, ge=1, description="keep only the most frequent words")
    lower: bool = Field(False, description="convert the text to lower case first")
    segmenter: Literal["none", "jieba"] = Field(
        "none",
        description="of Chinese: jieba, words as the library jieba finds them; none, each character is a word",
    )
    seed: int = Field(1, ge=0, lt=2**32, description="of initial vectors, order and sampling")
    lr: float = Field(0.0, ge=0, description="learning rate; 0: 0.025 skip-gram, 0.05 CBOW and GloVe")
    negative: int = Field(5, ge=1, description="word2vec: negative samples per word")
    sample: float = Field(
        1e-3, ge=0, description="word2vec: word frequency above which occurrences are downsampled; 0: off"
    )
    x_max: float = Field(10.0, gt=0, description="GloVe: count from which pairs have full weight")
    threads: int = Field(
        1, ge=1, description="word2vec: worker threads; more are faster, but results are not reproducible"
    )

    def unused_settings(self) -> dict[str, str]:
        """Return the settings of the other methods."""
        if self.method == "glove":
            return dict.fromkeys(("negative", "sample", "threads"), "applies to word2vec, but method is glove")
        return {"x_max": f"applies to GloVe, but method is {self.method}"}
