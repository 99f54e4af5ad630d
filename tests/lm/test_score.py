import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_lm import FAMILIES, TEXT, gpt, lm, tokenizer

from firstlight import parallel
from firstlight.lm import LM, GenerateSettings, Score, score, score_windows
from firstlight.model import GPT
from firstlight.store import Windows
from firstlight.train.validate import validate

CPU = parallel.DeviceContext(torch.device("cpu"), "fp32", False, 1, 0, 1, {})
V = 41


def logprobs(model: GPT, ids: list[int]) -> np.ndarray:
    """log P of ids[1:] in float64 softmax over the model's logits, all in one window."""
    with torch.no_grad():
        p = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(-1)
    return p[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()


def reference_score(model: LM, before: list[int], after: list[int]) -> Score:
    ids = (before + after)[-(model.config.block_size + 1) :]
    with torch.no_grad():
        greedy = model.model(torch.tensor([ids[:-1]]))[0].argmax(-1).tolist()
    n = len(after)
    return Score(float(logprobs(model.model, ids)[-n:].sum()), n, greedy[-n:] == after)


def same(found: Score, wanted: Score) -> bool:
    return found.logprob == pytest.approx(wanted.logprob, abs=1e-4) and (found.n_tokens, found.is_greedy) == (
        wanted.n_tokens,
        wanted.is_greedy,
    )


PAIRS = [
    ("The sun", " also rises"),
    ("The sun ", "also rises"),
    ("子曰：", "学而时习之"),
    ("", "The"),
    ("All the rivers run into the sea, yet the sea", "."),
    ("x", ""),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_computed_by_hand(family):
    model = lm(family, "byte", block_size=64)
    eot = model.tokenizer.eot_id
    encode = model.tokenizer.encode
    found = model.score(PAIRS)
    cuts = [(a.rstrip(), a[len(a.rstrip()) :] + b) for a, b in PAIRS]
    for one, (a, b) in zip(found, cuts, strict=True):
        if b:
            assert same(one, reference_score(model, encode(a) or [eot], encode(b)))
    assert found[0].logprob == pytest.approx(found[1].logprob, abs=1e-5), "white space belongs to what follows"
    assert found[5] == Score(0.0, 0, True)


def test_scores_are_those_of_transformers(tmp_path):
    import transformers

    model = lm("modern", "bpe", block_size=64)
    model.save(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for (context, continuation), one in zip(PAIRS[:1] + PAIRS[2:3], model.score(PAIRS[:1] + PAIRS[2:3]), strict=True):
        ids = words(context + continuation, return_tensors="pt")["input_ids"]
        labels = ids.clone()
        labels[:, : len(words(context)["input_ids"])] = -100
        with torch.no_grad():
            loss = theirs(ids, labels=labels).loss
        assert one.n_tokens == int((labels != -100).sum())
        assert one.logprob == pytest.approx(-float(loss) * one.n_tokens, abs=1e-3)


def test_what_the_model_would_write_is_greedy():
    model = lm("gpt2", "char", block_size=64)
    prompts = [f"{c} sun" for c in "abcdefgh"]
    made = model.generate(prompts, GenerateSettings(max_new_tokens=8, temperature=0))
    made = [one for one in made if model.tokenizer.encode(one.text) == one.ids]
    assert made
    assert all(found.is_greedy for found in model.score([(one.prompt, one.text) for one in made]))
    assert not any(found.is_greedy for found in model.score([(one.prompt, one.text[:-1] + "子") for one in made]))


def test_each_token_must_be_the_likeliest_one():
    def next_of(ids: list[int]) -> int:
        with torch.no_grad():
            return int(MODEL(torch.tensor([ids]))[0, -1].argmax())

    first = next_of([1, 2, 3])
    other = (first + 1) % V
    pairs = [([1, 2, 3], [a, b]) for a in (first, other) for b in (next_of([1, 2, 3, a]), V - 1)]
    assert V - 1 not in (pairs[0][1][1], pairs[2][1][1])
    assert [found.is_greedy for found in score.score_ids(MODEL, pairs, CPU)] == [True, False, False, False]


def test_the_border_is_where_the_whole_text_begins_to_differ():
    model = lm("gpt2", "bpe", block_size=64)
    encode = model.tokenizer.encode
    whole = encode("The sun")
    assert encode("The s") + encode("un") != whole
    shared = next(i for i, (a, b) in enumerate(zip(encode("The s"), whole, strict=False)) if a != b)
    assert same(model.score([("The s", "un")])[0], reference_score(model, whole[:shared], whole[shared:]))
    assert same(model.score([("T", "he")])[0], reference_score(model, [model.tokenizer.eot_id], encode("The")))
    assert encode("The")[0] != encode("T")[0]


def test_a_space_that_a_word_tokenizer_drops_scores_nothing():
    assert lm("gpt2", "word").score([("The sun", " ")]) == [Score(0.0, 0, True)]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), max_size=12), st.sampled_from([7, 16, 64, 8192]))
@settings(max_examples=12, deadline=None)
def test_batches_by_length_change_nothing(sizes, tokens):
    model = MODEL
    generator = np.random.default_rng(len(sizes))
    pairs = [(generator.integers(0, V, a).tolist(), generator.integers(0, V, b).tolist()) for a, b in sizes]
    old = score._TOKENS, score._MAX_LOGITS
    try:
        score._TOKENS, score._MAX_LOGITS = tokens, 3 * V
        together = score.score_ids(model, pairs, CPU)
        score._TOKENS, score._MAX_LOGITS = 1, 1 << 20
        alone = [score.score_ids(model, [pair], CPU)[0] for pair in pairs]
    finally:
        score._TOKENS, score._MAX_LOGITS = old
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))


MODEL = gpt("modern", V, block_size=16)


def test_a_long_context_loses_its_beginning():
    pair = (list(range(30)), [5, 6, 7])
    (found,) = score.score_ids(MODEL, [pair], CPU)
    assert found.logprob == pytest.approx(logprobs(MODEL, [*range(16, 30), 5, 6, 7])[-3:].sum(), abs=1e-4)


@pytest.mark.parametrize("n", [16, 17, 40])
def test_a_continuation_longer_than_the_model_sees_is_scored_whole(n):
    after = np.random.default_rng(0).integers(0, V, n).tolist()
    (found,) = score.score_ids(MODEL, [([3, 4], after)], CPU)
    assert found.n_tokens == n
    ids, total = [3, 4, *after], 0.0
    step = n if n <= 16 else 8
    for first in range(0, n, step):
        end = 2 + min(first + step, n)
        total += logprobs(MODEL, ids[max(0, end - 17) : end])[-(end - 2 - first) :].sum()
    assert found.logprob == pytest.approx(total, abs=1e-4)


def test_scoring_leaves_the_mode_and_uses_no_dropout():
    model = lm("gpt2", "byte", dropout=0.5, block_size=64)
    wanted = model.score(PAIRS)
    model.model.train()
    assert model.score(PAIRS) == wanted
    ids = np.arange(40)
    windows = [w.nll for w in score_windows(model.model, ids, stride=3, device_context=CPU)]
    assert model.model.training
    model.model.eval()
    assert all(
        np.array_equal(a.nll, b)
        for a, b in zip(score_windows(model.model, ids, stride=3, device_context=CPU), windows, strict=True)
    )


@given(st.integers(0, 90), st.integers(1, 16), st.sampled_from([1, 2, 5, None]))
@settings(max_examples=6, deadline=None)
def test_every_target_is_scored_once_with_the_context_that_is_promised(n, stride, rows):
    ids = np.random.default_rng(n).integers(0, V, n).astype(np.int32)
    nll, at = [], 0
    for window in score_windows(MODEL, ids, stride=stride, device_context=CPU, rows=rows):
        assert window.start == at
        assert len(window.nll) > 0
        at += len(window.nll)
        nll.append(window.nll)
    assert at == max(0, n - 1)
    for target, found in enumerate(np.concatenate(nll) if nll else []):
        begin = 0 if target < 16 else stride * -(-(target + 1 - 16) // stride)
        assert target - begin >= (16 - stride if begin else 0)
        wanted = -logprobs(MODEL, ids[begin : target + 2].tolist())[-1]
        assert found == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize(("few", "many"), [(1, 2), (2, 4), (4, 16), (3, 9), (8, 16)])
def test_a_smaller_stride_never_gives_less_context(few, many):
    ids = np.random.default_rng(0).integers(0, V, 70)

    def context(stride: int) -> np.ndarray:
        sizes = []
        for number, window in enumerate(score_windows(MODEL, ids, stride=stride, device_context=CPU)):
            sizes += [window.start + i - number * stride + 1 for i in range(len(window.nll))]
        return np.array(sizes)

    assert (context(few) >= context(many)).all()
    assert context(few).max() == 16


class _Split:
    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens, self.n_tokens, self.dtype = tokens, len(tokens), tokens.dtype

    def read(self, first: int, out: np.ndarray) -> None:
        out[:] = self.tokens[first : first + len(out)]


@pytest.mark.parametrize("n", [2, 9, 17, 18, 33, 100])
def test_disjoint_windows_are_those_of_the_valid_loss(n):
    ids = np.random.default_rng(n).integers(0, V, n).astype(np.int32)
    valid = validate(MODEL, Windows(_Split(ids), block_size=16), None, CPU, rows=3)
    nll = np.concatenate([w.nll for w in score_windows(MODEL, ids, stride=16, device_context=CPU)])
    assert len(nll) == valid.targets
    assert nll.astype(np.float64).mean() == pytest.approx(valid.loss, rel=1e-6)


def test_half_precision_scores_about_the_same():
    device_context = parallel.DeviceContext(torch.device("cpu"), "bf16", False, 1, 0, 1, {})
    model = lm("gpt2", "byte", block_size=64, init_std=0.1)
    exact = model.score(PAIRS)
    rough = model.to(device_context).score(PAIRS)
    assert model.model.embed.weight.dtype == torch.float32
    for a, b in zip(exact, rough, strict=True):
        assert b.logprob == pytest.approx(a.logprob, rel=0.03, abs=0.2)
    assert exact != rough


def test_the_text_of_a_whole_corpus_is_scored_in_one_go():
    ids = np.array(tokenizer("byte").encode(TEXT), dtype=np.int32)
    model = lm("gpt2", "byte", block_size=32)
    found = np.concatenate([w.nll for w in score_windows(model.model, ids, stride=32, device_context=CPU)])
    assert len(found) == len(ids) - 1
