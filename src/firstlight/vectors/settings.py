"""What word vectors that are trained here may be asked to be."""

from typing import Literal

from pydantic import Field

from firstlight.config import Settings


class VectorSettings(Settings):
    """Settings of ``tokenizer vectors train``."""

    method: Literal["cbow", "skipgram", "glove"] = Field(
        "skipgram", description="word2vec's two ways, by gensim, or GloVe's"
    )
    width: int = Field(100, ge=1, le=4096, description="numbers of a vector")
    window: int = Field(5, ge=1, le=100, description="words to either side that a word is seen with")
    epochs: int = Field(5, ge=1, description="passes over the text, or over GloVe's counts, which want more: 15 to 50")
    min_count: int = Field(5, ge=1, description="a word that is rarer is left out")
    max_words: int = Field(200_000, ge=1, description="the commonest are kept")
    lower: bool = Field(False, description="write everything in lower case first")
    seed: int = Field(1, ge=0, lt=2**32, description="of first vectors, order and samples")
    lr: float = Field(0.0, ge=0, description="learning rate; 0: 0.025 skip-gram, 0.05 CBOW and GloVe")
    negative: int = Field(5, ge=1, description="word2vec: words drawn against each one seen")
    sample: float = Field(1e-3, ge=0, description="word2vec: share above which a word is left out now and then; 0: off")
    x_max: float = Field(10.0, gt=0, description="GloVe: the count from which on pairs weigh the same")
    threads: int = Field(
        1, ge=1, description="word2vec: more are faster, but no longer give the same vectors each time"
    )
