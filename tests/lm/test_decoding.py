import pytest
import torch
from tiny_lm import FAMILIES, gpt

from firstlight import progress
from firstlight.lm.decoding import BatchDecoder
from firstlight.model import GPT

V = 41
LENGTHS = (1, 3, 9, 30, 24, 2)


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(0, V, (n,), generator=generator).tolist() for n in LENGTHS]


def uncached(model: GPT, ids: list[int], n: int) -> list[int]:
    """The documented policy without a cache: a context that would outgrow the block goes on from its last half."""
    block, ids, out = model.config.block_size, list(ids), list[int]()
    begin = max(0, len(ids) - block)
    for _ in range(n):
        if len(ids) - begin > block:
            begin = len(ids) - max(1, block // 2)
        with torch.no_grad():
            out.append(int(model(torch.tensor([ids[begin:]]))[0, -1].argmax()))
        ids.append(out[-1])
    return out


def cached(model: GPT, texts: list[list[int]], lengths: list[int]) -> list[list[int]]:
    """Greedy texts, each ended when it has its length."""
    decoder, out = BatchDecoder(model, texts, max(lengths)), [list[int]() for _ in texts]
    while decoder.active:
        active = decoder.active
        tokens = decoder.next_logits().argmax(-1).tolist()
        for i, token in zip(active, tokens, strict=True):
            out[i].append(token)
        decoder.append(tokens, {i for i in active if len(out[i]) == lengths[i]})
        assert all(decoder.sequences[i] == texts[i] + out[i] for i in active)
    return out


QUICK = {("gpt1", 200), ("modern", 3)}


@pytest.mark.parametrize(
    ("family", "block"),
    [
        pytest.param(family, block, marks=() if (family, block) in QUICK else pytest.mark.slow)
        for family in FAMILIES
        for block in (1, 2, 3, 8, 24, 200)
    ],
)
def test_cached_is_uncached_alone_and_in_a_batch_also_when_contexts_slide(family, block):
    model = gpt(family, V, block_size=block)
    wanted = [uncached(model, ids, 50) for ids in prompts()]
    assert len({tuple(text) for text in wanted}) == len(LENGTHS) or block <= 3
    assert cached(model, prompts(), [50] * 6) == wanted
    for ids, text in zip(prompts(), wanted, strict=True):
        assert cached(model, [ids], [50]) == [text]


@pytest.mark.parametrize("block", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 24, 200))])
def test_texts_that_end_leave_the_others_as_they_are(block):
    model = gpt("modern", V, block_size=block)
    lengths = [7, 50, 1, 23, 24, 49]
    wanted = [uncached(model, ids, n) for ids, n in zip(prompts(), lengths, strict=True)]
    assert cached(model, prompts(), lengths) == wanted
    assert cached(model, prompts()[::-1], lengths[::-1]) == wanted[::-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_whole_context(family):
    model = gpt(family, V, block_size=40)
    decoder = BatchDecoder(model, prompts(), 10)
    for token in range(10):
        logits = decoder.next_logits()
        for i, row in enumerate(decoder.sequences):
            with torch.no_grad():
                torch.testing.assert_close(logits[i], model(torch.tensor([row]))[0, -1], atol=2e-5, rtol=1e-4)
        decoder.append([token] * 6)


def test_ended_texts_leave_the_cache_a_quarter_at_a_time():
    model, rows = gpt("gpt2", V), []
    model.blocks[0].register_forward_hook(lambda module, inputs, out: rows.append(len(out)))
    cached(model, prompts()[:3], [2, 5, 5])
    assert rows == [3, 3, 2, 2, 2]
    rows.clear()
    cached(model, [[1], [2]] * 4, [1, 2, 3, 4, 5, 5, 5, 5])
    assert rows == [8, 8, 6, 6, 4]


def test_an_ended_text_that_fills_the_cache_leaves_it():
    model = gpt("gpt2", V, block_size=12)
    texts, lengths = [[1] * 10, [2], [3], [4], [5]], [1, 30, 30, 30, 30]
    assert cached(model, texts, lengths) == [uncached(model, t, n) for t, n in zip(texts, lengths, strict=True)]


def test_only_the_last_position_goes_through_the_head_and_one_position_through_the_model():
    model, seen = gpt("llama", V, block_size=64), []
    model.norm.register_forward_hook(lambda module, inputs, out: seen.append(tuple(out.shape[:2])))
    decoder = BatchDecoder(model, [[1, 2, 3, 4], [5]], 3)
    for _ in range(3):
        assert decoder.next_logits().shape == (2, V)
        decoder.append([1, 2])
    assert seen == [(2, 4), (2, 1), (2, 1)]


def _notices(model: GPT, texts: list[list[int]], n: int) -> list[str]:
    events: list[progress.Event] = []
    with progress.listen(events.append):
        cached(model, texts, [n] * len(texts))
    return [event.text for event in events]


def test_a_context_that_slides_says_so_once():
    model = gpt("gpt2", V, block_size=8)
    assert _notices(model, [[1] * 3], 6) == []
    (told,) = _notices(model, [[1] * 3, [2]], 30)
    assert told == "the text is longer than the block size of 8 tokens: its context slides"
    cut, slid = _notices(model, [[1] * 12, [3] * 9], 2)
    assert cut == "the prompt has 12 tokens, the model's block size is 8: its start is left out"
    assert slid == told


def test_the_last_token_of_all_does_not_slide():
    model = gpt("gpt2", V, block_size=8)
    assert _notices(model, [[1] * 8], 1) == []
    assert _notices(model, [[1] * 2], 7) == []
    assert len(_notices(model, [[1] * 2], 8)) == 1


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode_and_drops_nothing(training):
    model = gpt("gpt2", V, dropout=0.5).train(training)
    first = cached(model, prompts()[:3], [12] * 3)
    assert model.training is training
    assert all(module.training is training for module in model.modules())
    assert first == [uncached(model.eval(), ids, 12) for ids in prompts()[:3]]


def test_half_precision_has_a_cache_of_its_own_type():
    model = gpt("modern", V).to(torch.bfloat16)
    decoder = BatchDecoder(model, [[1, 2, 3]], 4)
    logits = [decoder.next_logits()]
    decoder.append([4])
    logits.append(decoder.next_logits())
    assert all(x.dtype == torch.float32 for x in logits)
    with torch.no_grad():
        torch.testing.assert_close(
            logits[1][0], model(torch.tensor([[1, 2, 3, 4]]))[0, -1].float(), atol=0.3, rtol=0.05
        )
