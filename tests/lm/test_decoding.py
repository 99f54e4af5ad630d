"""The decoding engine: what each request gets, beside any others, and how its work is shared out."""

import threading
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_lm import FAMILIES, gpt

from firstlight import progress
from firstlight.errors import CheckpointError, UsageError
from firstlight.lm import GenerateSettings
from firstlight.lm.decoding import CHUNK, DecodingEngine, look_up
from firstlight.lm.request import Request
from firstlight.lm.streamer import IdStreamer
from firstlight.model import GPT
from firstlight.model.decoders import Segment
from firstlight.model.quantized import to_int8

V = 41
LENGTHS = (1, 3, 9, 30, 24, 2)
BOTH = pytest.mark.parametrize("native", [True, False], ids=["native", "plain"])


def prompts(lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(0, V, (n,), generator=generator).tolist() for n in lengths]


def greedy(n: int, **more: int) -> GenerateSettings:
    return GenerateSettings(temperature=0, max_new_tokens=n, **more)


def request(prompt: list[int], wanted: GenerateSettings, stream: int = 0) -> Request:
    return Request(prompt, wanted, IdStreamer(frozenset()), random_stream=stream, with_logprobs=True)


def found(requests: Sequence[Request]) -> list[tuple[list[int], list[float]]]:
    assert all(r.finish_reason == "length" for r in requests)
    return [(r.sink.ids, r.logprobs) for r in requests if isinstance(r.sink, IdStreamer)]


def together(
    model: GPT, texts: list[list[int]], wanted: list[GenerateSettings], native: bool, *, pause: int = 0, **options: int
) -> list[tuple[list[int], list[float]]]:
    """Run requests in one engine, each ``pause`` steps after the one before."""
    engine = DecodingEngine(model, native=native, **options)
    requests = [request(*each, stream=i) for i, each in enumerate(zip(texts, wanted, strict=True))]
    for each in requests:
        engine.add(each)
        for _ in range(pause):
            engine.step()
    for _ in engine.run():
        pass
    return found(requests)


def alone(
    model: GPT, texts: list[list[int]], wanted: list[GenerateSettings], native: bool
) -> list[tuple[list[int], list[float]]]:
    requests = [request(*each, stream=i) for i, each in enumerate(zip(texts, wanted, strict=True))]
    for each in requests:
        engine = DecodingEngine(model, native=native)
        engine.add(each)
        for _ in engine.run():
            pass
    return found(requests)


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


QUICK = {("gpt1", 200), ("gpt3", 8), ("modern", 3)}


@BOTH
@pytest.mark.parametrize(
    ("family", "block"),
    [
        pytest.param(family, block, marks=() if (family, block) in QUICK else pytest.mark.slow)
        for family in FAMILIES
        for block in (1, 2, 3, 8, 24, 200)
    ],
)
def test_greedy_texts_are_those_without_a_cache_also_when_contexts_slide(family, block, native):
    model = gpt(family, V, block_size=block)
    lengths = [50, 7, 1, 23, 50, 49]
    wanted = [uncached(model, ids, n) for ids, n in zip(prompts(), lengths, strict=True)]
    assert len({tuple(text) for text in wanted}) == len(LENGTHS) or block <= 3
    made = together(model, prompts(), [greedy(n) for n in lengths], native)
    assert [ids for ids, _ in made] == wanted


def to_bf16(model: GPT) -> GPT:
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


PRECISIONS: dict[str, Callable[[GPT], GPT]] = {"fp32": lambda model: model, "bf16": to_bf16, "int8": to_int8}
LONG = (140, 9, 9, 12, 290, 130, 1, 128, 129)


def shared_prompts() -> list[list[int]]:
    """Prompts of which some are equal, and some begin alike."""
    texts = prompts(LONG)
    texts[2] = texts[1]
    texts[3][:8] = texts[1][:8]
    texts[4][:135] = texts[0][:135]
    texts[5] = texts[0][:130]
    texts[7] = texts[0][:128]
    return texts


SLOW_PLAIN = {("bf16", False), ("int8", False)}


@pytest.mark.parametrize(
    ("precision", "native"),
    [
        pytest.param(precision, native, marks=pytest.mark.slow if (precision, native) in SLOW_PLAIN else ())
        for precision in PRECISIONS
        for native in (True, False)
    ],
)
@pytest.mark.parametrize(
    ("family", "block"),
    [
        pytest.param(
            family, block, marks=() if (family, block) in {("gpt2", 400), ("modern", 64)} else pytest.mark.slow
        )
        for family in FAMILIES
        for block in (8, 64, 400)
    ],
)
def test_a_request_gets_the_same_bits_whatever_runs_beside_it(family, block, precision, native):
    model, texts = PRECISIONS[precision](gpt(family, V, block_size=block)), shared_prompts()
    wanted = [GenerateSettings(max_new_tokens=n, top_p=0.9, temperature=1.3) for n in (40, 3, 40, 20, 9, 33, 1, 40, 17)]
    expected = alone(model, texts, wanted, native)
    assert together(model, texts, wanted, native) == expected
    assert together(model, texts, wanted, native, pause=2) == expected
    assert together(model, texts, wanted, native, max_batch=2) == expected
    assert together(model, texts, wanted, native, max_cache_bytes=1) == expected
    if native:
        assert together(model, texts, wanted, native, n_kept=3, max_batch=2, pause=5) == expected


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_mix_of_requests_gives_each_what_it_gets_alone(data):
    model, texts = gpt("llama", V, block_size=48), shared_prompts()
    chosen = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=6))
    wanted = [
        GenerateSettings(
            max_new_tokens=data.draw(st.integers(1, 60)),
            temperature=data.draw(st.sampled_from([0.0, 0.8])),
            prompt_lookup_num_tokens=data.draw(st.integers(0, 4)),
        )
        for _ in chosen
    ]
    plain = [w.model_copy(update={"prompt_lookup_num_tokens": 0}) for w in wanted]
    expected = alone(model, [texts[i] for i in chosen], plain, native=True)
    options = {"pause": data.draw(st.integers(0, 4)), "max_batch": data.draw(st.integers(1, 6))}
    kept = data.draw(st.integers(0, 2))
    assert together(model, [texts[i] for i in chosen], wanted, native=True, n_kept=kept, **options) == expected


@BOTH
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_the_whole_text(family, native):
    model = gpt(family, V, block_size=64)
    wanted = [GenerateSettings(max_new_tokens=20, temperature=0.7)] * 6
    for prompt, (ids, logprobs) in zip(prompts(), together(model, prompts(), wanted, native), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]]))[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits.double() / 0.7, -1).gather(1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logprobs, dtype=torch.float64), expected, atol=1e-4, rtol=1e-4)


def record_segments(engine: DecodingEngine) -> list[list[Segment]]:
    seen, forward = list[list[Segment]](), engine.decoder.forward

    def recorded(segments):
        seen.append(list(segments))
        return forward(segments)

    engine.decoder.forward = recorded
    return seen


@BOTH
@pytest.mark.parametrize("length", [2, 200])
def test_equal_prompts_are_read_once(native, length):
    engine = DecodingEngine(gpt("gpt2", V, block_size=400), native=native)
    seen = record_segments(engine)
    for i in range(5):
        engine.add(request(prompts([length])[0], greedy(4), stream=i))
    for _ in engine.run():
        pass
    pieces = [2] if length == 2 else [128, 72]
    assert [len(s.ids) for step in seen for s in step if len(s.ids) > 1] == pieces
    assert len(seen) == len(pieces) + 3


@BOTH
@pytest.mark.parametrize(("block", "new"), [(400, 1), (40, 4)], ids=["one-token", "sliding"])
def test_equal_prompts_are_read_once_also_where_the_first_ends_or_slides_at_once(native, block, new):
    model, text = gpt("gpt2", V, block_size=block), prompts([40])[0]
    engine = DecodingEngine(model, native=native)
    seen, requests = record_segments(engine), [request(text, greedy(new), stream=i) for i in range(10)]
    for each in requests:
        engine.add(each)
    for _ in engine.run():
        pass
    assert sum(len(s.ids) == 40 for step in seen for s in step) == 1
    assert {tuple(each.sink.ids) for each in requests} == {tuple(uncached(model, text, new))}


def test_a_common_beginning_is_read_once():
    engine = DecodingEngine(gpt("gpt2", V, block_size=400), native=True)
    seen, texts = record_segments(engine), prompts([200, 210, 205])
    texts[1][:191], texts[2][:191] = [*texts[0][:190], V - 1], [*texts[0][:190], V - 2]
    texts[0][190] = 0
    for text in texts:
        engine.add(request(text, greedy(3)))
    for _ in engine.run():
        pass
    assert sum(len(s.ids) for step in seen for s in step if len(s.ids) > 1) == 200 + 20 + 15


def test_what_a_finished_request_has_read_and_written_is_kept_for_the_next():
    model, first = gpt("modern", V, block_size=200), request(prompts([20])[0], greedy(10))
    engine = DecodingEngine(model, native=True, n_kept=1)
    engine.add(first)
    for _ in engine.run():
        pass
    turn = [*first.prompt, *first.sink.ids, 3, 4, 5]
    seen, second = record_segments(engine), request(turn, greedy(5))
    engine.add(second)
    for _ in engine.run():
        pass
    assert len(seen[0][0].ids) == 4, "the last token that was written, and the three new ones"
    assert second.sink.ids == uncached(model, turn, 5)


def test_prompts_are_read_in_pieces_beside_running_requests():
    engine = DecodingEngine(gpt("gpt2", V, block_size=1000))
    seen, short = record_segments(engine), request([1], greedy(20))
    engine.add(short)
    engine.step()
    engine.add(request(prompts([700])[0], greedy(1)))
    for _ in engine.run():
        pass
    assert [sorted(len(s.ids) for s in step) for step in seen[:7]] == [[1], *[[1, CHUNK]] * 5, [1, 700 - 5 * CHUNK]]
    assert len(short.sink.ids) == 20


def test_short_prompts_are_read_together():
    engine = DecodingEngine(gpt("gpt2", V, block_size=64))
    seen = record_segments(engine)
    for _, prompt in zip(range(30), prompts([10] * 30), strict=True):
        engine.add(request(prompt, greedy(1)))
    for _ in engine.run():
        pass
    assert [len(step) for step in seen] == [13, 13, 4], "the first whole prompts of at least 128 tokens"


def test_logits_are_computed_where_they_are_sampled_from_only():
    engine = DecodingEngine(gpt("gpt2", V, block_size=400))
    seen = record_segments(engine)
    engine.add(request(prompts([200])[0], greedy(3)))
    for _ in engine.run():
        pass
    assert [(len(s.ids), s.n_logits) for step in seen for s in step] == [(128, 0), (72, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_prompt_lookup_saves_steps_and_changes_nothing(temperature):
    model = gpt("modern", V, block_size=200)
    wanted = GenerateSettings(temperature=temperature, max_new_tokens=60)
    text = prompts([6])[0] * 5
    expected = alone(model, [text], [wanted], native=True)
    engine, looked_up = (
        DecodingEngine(model, native=True),
        request(text, wanted.model_copy(update={"prompt_lookup_num_tokens": 8})),
    )
    seen = record_segments(engine)
    engine.add(looked_up)
    for _ in engine.run():
        pass
    assert found([looked_up]) == expected
    assert any(len(step[0].ids) > 1 for step in seen[1:])
    assert len(seen) < 60


def test_prompt_lookup_without_the_decoder_in_c_says_that_it_has_no_effect():
    events = list[progress.Event]()
    with progress.listen(events.append):
        together(gpt("gpt2", V), [[1, 2]], [greedy(3, prompt_lookup_num_tokens=2)], native=False)
    assert [event.text for event in events] == ["prompt lookup has no effect: it needs the decoder in C++"]


@pytest.mark.parametrize(
    ("ids", "limit", "expected"),
    [
        ([1, 2, 3, 9, 1, 2, 3], 2, [9, 1]),
        ([1, 2, 3, 9, 7, 2, 3], 5, [9, 7, 2, 3]),
        ([1, 2, 3, 8, 1, 2, 3, 9, 1, 2, 3], 1, [9]),
        ([5, 5, 5, 5], 3, [5]),
        ([1, 2, 3, 4], 3, []),
        ([1], 3, []),
        ([1, 1], 3, []),
    ],
)
def test_lookup_finds_what_followed_the_last_occurrence(ids, limit, expected):
    assert look_up(ids, limit) == expected


@BOTH
def test_a_cancelled_request_leaves_the_others_as_they_are(native):
    model = gpt("modern", V, block_size=200)
    wanted = [greedy(30)] * 3
    texts = [prompts([20])[0]] * 2 + [prompts([150, 9])[1]]
    expected = alone(model, texts, wanted, native)
    engine = DecodingEngine(model, native=native)
    requests = [request(*each) for each in zip(texts, wanted, strict=True)]
    for each in requests:
        engine.add(each)
    waiting = request([1], greedy(2))
    engine.step()
    engine.add(waiting)
    engine.cancel(waiting)
    engine.cancel(requests[0])
    for _ in engine.run():
        pass
    engine.cancel(requests[1])
    assert found(requests[1:]) == expected[1:]
    assert (requests[0].finish_reason, waiting.finish_reason) == ("cancelled", "cancelled")
    assert requests[0].sink.ids == expected[0][0][: len(requests[0].sink.ids)]
    assert not engine.has_unfinished


@BOTH
def test_a_request_whose_source_is_cancelled_reads_its_prompt_itself(native):
    engine = DecodingEngine(gpt("gpt2", V, block_size=400), native=native)
    first, second = (request(prompts([200])[0], greedy(2), stream=i) for i in range(2))
    engine.add(first)
    engine.add(second)
    engine.step()
    engine.cancel(first)
    for _ in engine.run():
        pass
    assert second.sink.ids == uncached(gpt("gpt2", V, block_size=400), prompts([200])[0], 2)


def test_a_prompt_that_was_cancelled_half_read_is_not_waited_for():
    model, text = gpt("gpt2", V, block_size=400), prompts([200])[0]
    engine = DecodingEngine(model, native=True, n_kept=1)
    first, second = request(text, greedy(3)), request([*text[:190], 1, 2], greedy(3))
    engine.add(first)
    engine.step()
    engine.cancel(first)
    engine.add(second)
    for _, _done in zip(range(10), engine.run(), strict=False):
        pass
    assert second.sink.ids == uncached(model, list(second.prompt), 3)


@BOTH
@pytest.mark.parametrize("ids", [[], [-1], [3, V], [1, 10**9, 2]])
def test_ids_that_the_model_does_not_have_are_refused(native, ids):
    engine = DecodingEngine(gpt("gpt2", V), native=native)
    with pytest.raises(UsageError, match="not a prompt of this model"):
        engine.add(request(ids, greedy(2)))
    assert not engine.has_unfinished


class Sink(IdStreamer):
    """Calls a function at its n-th token."""

    def __init__(self, n: int, act: Callable[[], None]) -> None:
        super().__init__(frozenset())
        self.n, self.act = n, act

    def put(self, token: int) -> None:
        super().put(token)
        if len(self.ids) == self.n:
            self.act()


def fail() -> None:
    raise RuntimeError("the client has gone")


@BOTH
def test_a_sink_that_fails_ends_its_request_only(native):
    model = gpt("modern", V, block_size=64)
    texts, wanted = prompts()[:4], [GenerateSettings(max_new_tokens=20)] * 4
    expected = alone(model, texts, wanted, native)
    engine = DecodingEngine(model, native=native)
    requests = [request(*each, stream=i) for i, each in enumerate(zip(texts, wanted, strict=True))]
    requests[1].sink = Sink(4, fail)
    for each in requests:
        engine.add(each)
    for _ in range(3):
        engine.step()
    with pytest.raises(RuntimeError, match="client has gone"):
        engine.step()
    for _ in engine.run():
        pass
    assert requests[1].finish_reason == "error"
    assert found([requests[i] for i in (0, 2, 3)]) == [expected[i] for i in (0, 2, 3)]


@BOTH
@pytest.mark.parametrize("others", [(0,), (2,), (1,), (0, 1, 2)])
def test_a_sink_may_cancel_any_request(native, others):
    model, engine = gpt("modern", V, block_size=64), DecodingEngine(gpt("modern", V, block_size=64), native=native)
    requests = [request([i + 1], greedy(4)) for i in range(3)]
    requests[1].sink = Sink(4, lambda: [engine.cancel(requests[i]) for i in others])
    for each in requests:
        engine.add(each)
    for _ in engine.run():
        pass
    for i, each in enumerate(requests):
        wanted = uncached(model, [i + 1], 4)
        assert each.finish_reason in ("length", "cancelled")
        assert each.sink.ids == wanted[: len(each.sink.ids)]
        assert len(each.sink.ids) >= 3


@BOTH
@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_that_are_not_finite_end_their_request_with_an_error(native, precision):
    model = gpt("gpt2", V, block_size=64)
    with torch.no_grad():
        model.positions.weight[5] = torch.nan  # reached by the longer prompt only
    model = PRECISIONS[precision](model)
    engine, good, bad = DecodingEngine(model, native=native), request([1, 2], greedy(3)), request([1] * 8, greedy(3))
    engine.add(good)
    engine.add(bad)
    with pytest.raises(CheckpointError, match="logits are not finite"):
        engine.step()
    for _ in engine.run():
        pass
    assert (good.finish_reason, bad.finish_reason, len(good.sink.ids)) == ("length", "error", 3)


@BOTH
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_changed_weights_make_an_engine_forget_what_it_has_computed(native, precision):
    model = PRECISIONS[precision](gpt("gpt2", V, block_size=64))
    engine, texts = DecodingEngine(model, native=native, n_kept=2), list[list[int]]()
    for _ in range(2):
        each = request([1, 2, 3, 4, 5, 6, 7, 8, 9], greedy(10))
        engine.add(each)
        for _ in engine.run():
            pass
        texts.append(each.sink.ids)
        assert each.sink.ids == alone(model, [list(each.prompt)], [greedy(10)], native)[0][0]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-1)
    assert texts[0] != texts[1]


def test_weights_that_are_replaced_while_a_request_runs_stay_in_memory():
    model, texts = gpt("gpt2", V, block_size=64), prompts([9])
    expected = alone(model, texts, [greedy(20)], native=True)
    engine, each = DecodingEngine(model, native=True), request(texts[0], greedy(20))
    engine.add(each)
    engine.step()
    model.to(torch.bfloat16)
    junk = [torch.full((100_000,), torch.nan) for _ in range(20)]
    for _ in engine.run():
        pass
    assert found([each]) == expected
    assert len(junk) == 20


@BOTH
@pytest.mark.parametrize("precision", PRECISIONS)
def test_many_requests_of_odd_widths_get_the_same_bits(native, precision):
    model = PRECISIONS[precision](gpt("gpt2", V, block_size=64, n_embd=100))
    texts, wanted = prompts([3 + i % 7 for i in range(24)]), [GenerateSettings(max_new_tokens=6)] * 24
    assert together(model, texts, wanted, native) == alone(model, texts, wanted, native)


def test_decoding_leaves_the_threads_of_others_alone():
    engine, seen = DecodingEngine(gpt("gpt2", V)), list[int]()
    before = torch.get_num_threads()

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()

    engine.add(Request([1], greedy(3), Sink(2, look)))
    for _ in engine.run():
        pass
    assert torch.get_num_threads() == before
    look()
    assert seen[0] == seen[1]


@BOTH
def test_memory_of_long_and_short_requests_stays_below_the_limit(native):
    model = gpt("gpt2", V, block_size=512)
    limit = 4 * 512 * 2 * 3 * 24 * 4
    engine = DecodingEngine(model, native=native, max_cache_bytes=limit)
    for i in range(12):
        engine.add(request([1], greedy(500 if i == 0 else 20)))
    at_once = [len(done) for done in engine.run()]
    assert sum(at_once) == 500 + 11 * 20
    if not native:
        assert engine.decoder._store.numel() * 4 <= limit
        assert max(at_once) == 4


def test_memory_limits_how_many_run_at_once():
    model = gpt("gpt2", V, block_size=100)
    position = 2 * 3 * 24 * 4
    engine = DecodingEngine(model, max_cache_bytes=position * 40, native=True)
    for _ in range(5):
        engine.add(request([1] * 10, greedy(11)))  # 20 positions each
    running = [len(done) for done in engine.run()]
    assert max(running) == 2
    assert sum(running) == 55


def _notices(model: GPT, texts: list[list[int]], n: int) -> list[str]:
    events: list[progress.Event] = []
    with progress.listen(events.append):
        together(model, texts, [greedy(n)] * len(texts), native=False)
    return [event.text for event in events]


def test_a_context_that_slides_says_so_once():
    model = gpt("gpt2", V, block_size=8)
    assert _notices(model, [[1] * 3], 6) == []
    (told,) = _notices(model, [[1] * 3, [2]], 30)
    assert told == "the text is longer than the block size of 8 tokens: its context slides"
    cut, other, slid = _notices(model, [[1] * 12, [3] * 9], 2)
    assert cut == "the prompt has 12 tokens, the model's block size is 8: its start is left out"
    assert other == cut.replace("12", "9")
    assert slid == told


def test_the_last_token_of_all_does_not_slide():
    model = gpt("gpt2", V, block_size=8)
    assert _notices(model, [[1] * 8], 1) == []
    assert _notices(model, [[1] * 2], 7) == []
    assert len(_notices(model, [[1] * 2], 8)) == 1


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode_and_drops_nothing(training, native):
    model = gpt("gpt2", V, dropout=0.5).train(training)
    first = together(model, prompts()[:3], [greedy(12)] * 3, native)
    assert model.training is training
    assert all(module.training is training for module in model.modules())
    assert [ids for ids, _ in first] == [uncached(model.eval(), ids, 12) for ids in prompts()[:3]]
