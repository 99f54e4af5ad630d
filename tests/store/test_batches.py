"""Batches are a pure function of the position: each target once an epoch, shares kept, documents known."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_text import EOT, Bytes, Texts, make

from firstlight.errors import StoreError
from firstlight.store import Batches, DataSettings, TokenStore, Windows, document_starts


class IdVocabulary(Bytes):
    """Gives every token of a text a number of its own, so that a row tells which tokens it holds."""

    def __init__(self) -> None:
        super().__init__(vocab_size=100_000)
        self._next = 1000

    def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        counts = np.array([len(text) for text in texts], dtype=np.int64)
        ids = np.arange(self._next, self._next + counts.sum(), dtype=np.int32)
        self._next += int(counts.sum())
        return ids, counts


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """One source of 1,009 tokens to train on, all different but for end-of-text."""
    return make(tmp_path_factory.mktemp("one") / "s", ["x" * 1121], encoder=IdVocabulary())


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Three sources of different sizes, of many documents each."""
    sources = [Texts([f"{name} {i} " * (i % 5 + 1) for i in range(60)], name) for name in ("one", "two", "three")]
    return make(tmp_path_factory.mktemp("three") / "s", *sources, encoder=IdVocabulary(), valid_ratio=0.2)


def test_the_fixture_is_what_it_says(store: TokenStore) -> None:
    assert store.train.n_tokens == 1008
    assert len(set(store.train.tokens.tolist())) == 1008


@pytest.mark.parametrize("block_size", [1, 7, 16, 63, 64, 1007])
def test_targets_are_the_inputs_shifted_by_one(store: TokenStore, block_size: int) -> None:
    batches = Batches(store, block_size=block_size, seed=3)
    batch = batches.batch(5, 9)
    assert batch.inputs.shape == batch.targets.shape == (9, block_size)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.inputs.is_contiguous()
    assert batch.targets.is_contiguous()
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    follows = {int(a): int(b) for a, b in zip(store.train.tokens, np.roll(store.train.tokens, -1), strict=True)}
    assert [follows[i] for i in batch.inputs.flatten().tolist()] == batch.targets.flatten().tolist()
    assert batch.weights is None
    assert batch.starts is None


@settings(deadline=None, max_examples=40)
@given(block_size=st.integers(1, 500), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10**6))
def test_each_target_comes_once_an_epoch(store: TokenStore, block_size: int, seed: int, epoch: int) -> None:
    batches = Batches(store, block_size=block_size, seed=seed)
    rows = batches.windows_per_epoch
    targets = batches.batch(epoch * rows, rows).targets.flatten().tolist()
    assert len(targets) == len(set(targets))
    assert store.train.n_tokens - block_size < len(targets) <= store.train.n_tokens


@settings(deadline=None, max_examples=60)
@given(data=st.data(), position=st.integers(0, 10**12), rows=st.integers(1, 40), weighted=st.booleans())
def test_any_split_of_the_rows_gives_the_same_rows(
    three: TokenStore, data: st.DataObject, position: int, rows: int, weighted: bool
) -> None:
    def made() -> Batches:
        return Batches(three, block_size=16, seed=9, weights=[3, 1, 2] if weighted else None, document_masking=True)

    whole = made().batch(position, rows)
    cuts = sorted(data.draw(st.lists(st.integers(1, rows), max_size=4)))
    edges = [0, *cuts, rows]
    # Each part by another process, in another order.
    parts = [made().batch(position + a, b - a) for a, b in zip(edges[::-1][1:], edges[::-1], strict=False) if b > a][
        ::-1
    ]
    assert torch.equal(torch.cat([p.inputs for p in parts]), whole.inputs)
    assert torch.equal(torch.cat([p.targets for p in parts]), whole.targets)
    assert torch.equal(torch.cat([p.starts for p in parts if p.starts is not None]), whole.starts)
    workers = data.draw(st.integers(1, 4))
    by_rank = [made().batch(position + rank, 1).inputs[0] for rank in range(min(workers, rows))]
    assert all(torch.equal(row, whole.inputs[rank]) for rank, row in enumerate(by_rank))


def test_epochs_and_seeds_have_orders_and_windows_of_their_own(store: TokenStore) -> None:
    batches = Batches(store, block_size=16, seed=1)
    rows = batches.windows_per_epoch
    first, second = batches.batch(0, rows).inputs, batches.batch(rows, rows).inputs
    other = Batches(store, block_size=16, seed=2).batch(0, rows).inputs
    for one, two in ((first, second), (first, other)):
        assert not torch.equal(one, two)
        begins = [{int(row[0]) % 16 for row in rows_} for rows_ in (one, two)]
        assert begins[0] != begins[1] or len(begins[0]) > 1


def test_the_order_is_no_order_of_the_text(store: TokenStore) -> None:
    batches = Batches(store, block_size=8, seed=1)
    begins = batches.window_starts(0, batches.windows_per_epoch)[:, 0]
    assert abs(np.corrcoef(np.arange(len(begins)), begins)[0, 1]) < 0.25


# Several sources


def _sources(store: TokenStore, batches: Batches, position: int, rows: int) -> np.ndarray:
    bases = [table["train"]["first_token"] for table in store.manifest["sources"]]
    return np.searchsorted(bases, batches.window_starts(position, rows)[:, 1])


@pytest.mark.parametrize(
    "weights", [[1.0, 1.0, 1.0], [5.0, 3.0, 2.0], [0.7, 0.2, 0.1], [0.0, 1.0, 3.0], [1e6, 1.0, 1.0]]
)
@pytest.mark.parametrize("group", [0, 3])
def test_weights_give_each_source_its_share(three: TokenStore, weights: list[float], group: int) -> None:
    batches = Batches(three, block_size=16, seed=1, weights=weights)
    counts = np.bincount(_sources(three, batches, group * 1024, 1024), minlength=3)
    wanted = np.array(weights) / sum(weights) * 1024
    assert counts.sum() == 1024
    assert np.abs(counts - wanted).max() < 1 or weights[0] == 1e6
    assert all((counts > 0) == (np.array(weights) > 0))
    # Shares hold about everywhere inside a group as well.
    early = np.bincount(_sources(three, batches, group * 1024, 256), minlength=3)
    assert np.abs(early - wanted / 4).max() < 40


def test_a_weighted_source_is_dealt_out_like_a_text(three: TokenStore) -> None:
    batches = Batches(three, block_size=16, seed=1, weights=[1, 1, 2])
    for number, table in enumerate(three.manifest["sources"]):
        first, tokens = table["train"]["first_token"], table["train"]["tokens"]
        own = set(three.train.tokens[first : first + tokens].tolist())
        windows, positions = tokens // 16, np.flatnonzero(_sources(three, batches, 0, 4096) == number)
        assert len(positions) > 3 * windows
        for epoch in range(3):
            mine = positions[epoch * windows : (epoch + 1) * windows].tolist()
            targets = [i for p in mine for i in batches.batch(p, 1).targets[0].tolist() if i != EOT]
            assert set(targets) <= own
            assert len(targets) == len(set(targets))


def test_rows_never_mix_sources(three: TokenStore) -> None:
    batches = Batches(three, block_size=50, seed=1, weights=[1, 1, 1])
    for position in range(200):
        names = {name.partition(":")[0] for name in batches.sources(position, 1)}
        assert len(names) == 1


def test_weights_that_do_not_fit(three: TokenStore) -> None:
    with pytest.raises(StoreError, match=r"data.weights: needs one weight per source .found 2; expected 3"):
        Batches(three, block_size=16, seed=1, weights=[1, 2])
    for bad in ([], [-1.0, 2.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]):
        with pytest.raises(ValueError, match="positive|finite"):
            DataSettings(weights=bad)


def test_a_text_shorter_than_a_block(store: TokenStore, three: TokenStore) -> None:
    Batches(store, block_size=1007, seed=1)
    with pytest.raises(StoreError, match="found 1008 tokens, block size 1008"):
        Batches(store, block_size=1008, seed=1)
    size = three.manifest["sources"][0]["train"]["tokens"]
    with pytest.raises(StoreError, match=f"^one: is shorter than one block .found {size} tokens, block size {size}"):
        Batches(three, block_size=size, seed=1, weights=[1, 1, 1])


def test_a_source_that_is_not_used_may_be_short(tmp_path: Path) -> None:
    store = make(tmp_path / "s", ["short text"], ["long " * 100])
    batches = Batches(store, block_size=40, seed=1, weights=[0, 1])
    assert {n.partition(":")[0] for n in batches.sources(0, 50)} == {"texts1"}


# Documents


def test_sources_names_the_documents_of_the_rows(three: TokenStore) -> None:
    by_token = {}
    split = three.train
    for document in range(split.n_documents):
        for token in split.tokens[split.bounds[document] : split.bounds[document + 1]].tolist():
            by_token[token] = split.document_name(document)
    for weights in (None, [1.0, 2.0, 1.0]):
        batches = Batches(three, block_size=33, seed=5, weights=weights)
        for position in (0, 7, 10**9):
            rows = batches.batch(position, 6)
            seen = dict.fromkeys(
                by_token[i]
                for row in torch.cat([rows.inputs, rows.targets[:, -1:]], 1).tolist()
                for i in row
                if i != EOT
            )
            named = batches.sources(position, 6)
            assert set(seen) <= set(named)
            # A document of which a row has the end-of-text alone is named too.
            assert [name for name in named if name in seen] == list(seen)
            assert len(named) <= len(seen) + 12
            assert len(set(named)) == len(named)


def test_sources_takes_time_by_documents_and_not_by_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "s", ["x" * 200_000])
    asked: list[int] = []
    monkeypatch.setattr(store.train, "document_name", lambda document: asked.append(document) or "name")
    Batches(store, block_size=50_000, seed=1).sources(0, 4)
    assert len(asked) <= 8


def test_a_row_that_runs_over_the_end_names_both_ends(tmp_path: Path) -> None:
    store = make(tmp_path / "s", [chr(97 + i) * 30 for i in range(19)])
    batches = Batches(store, block_size=60, seed=1)
    n = store.train.n_tokens
    for position in range(batches.windows_per_epoch * 3):
        begin = int(batches.window_starts(position, 1)[0, 0])
        documents = {int(np.searchsorted(store.train.bounds, t % n, "right")) - 1 for t in range(begin, begin + 61)}
        assert batches.sources(position, 1) == list(
            dict.fromkeys(
                store.train.document_name(d)
                for d in sorted(documents, key=lambda d: (store.train.bounds[d + 1] <= begin, d))
            )
        )


def test_documents_start_at_end_of_text_and_at_column_0() -> None:
    inputs = torch.tensor([[5, EOT, 7, EOT], [EOT, 1, 2, 3], [1, 2, 3, 4]])
    before = inputs.clone()
    wanted = [[True, True, False, True], [True, False, False, False], [True, False, False, False]]
    assert document_starts(inputs, EOT).tolist() == wanted
    assert torch.equal(inputs, before)


def test_masking_marks_documents_in_rows_and_windows(tmp_path: Path) -> None:
    store = make(tmp_path / "s", [f"text {i}" for i in range(80)], valid_ratio=0.3)
    rows = Batches(store, block_size=40, seed=1, document_masking=True).batch(3, 8)
    windows = Windows(store.valid, block_size=40, document_masking=True, eot_id=EOT).batch(0, 99)
    for batch in (rows, windows):
        assert batch.starts is not None
        assert batch.starts.shape == batch.inputs.shape
        assert batch.starts[:, 0].all()
        assert torch.equal(batch.starts[:, 1:], batch.inputs[:, 1:] == EOT)
        assert batch.starts[:, 1:].any()


def test_end_of_text_is_learnt(tmp_path: Path) -> None:
    store = make(tmp_path / "s", [f"text {i}" for i in range(80)])
    batches = Batches(store, block_size=10, seed=1)
    targets = batches.batch(0, batches.windows_per_epoch).targets
    assert int((targets == EOT).sum()) >= store.train.n_documents - 2


# Windows


@settings(deadline=None)
@given(block_size=st.integers(1, 200), rows=st.integers(1, 9))
def test_windows_cover_each_target_once(store: TokenStore, block_size: int, rows: int) -> None:
    windows = Windows(store.valid, block_size=block_size)
    tokens = store.valid.tokens.tolist()
    found: list[int] = []
    for index in range(0, windows.n_windows, rows):
        batch = windows.batch(index, rows)
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
        weights = torch.ones(batch.targets.shape) if batch.weights is None else batch.weights
        assert set(weights.flatten().tolist()) <= {0.0, 1.0}
        assert weights.dtype == torch.float32
        found += batch.targets[weights == 1].tolist()
    assert found == tokens[1:]
    assert windows.n_targets == len(tokens) - 1


def test_only_the_last_window_is_padded(store: TokenStore) -> None:
    windows = Windows(store.valid, block_size=50)
    n = store.valid.n_tokens - 1
    assert windows.n_windows == -(-n // 50)
    assert windows.batch(0, 1).weights is None
    last = windows.batch(windows.n_windows - 1, 1).weights
    assert last is not None
    assert last.tolist() == [[1.0] * (n % 50) + [0.0] * (50 - n % 50)]


@pytest.mark.parametrize("most", [1, 2, 3, 10, 22, 10**6])
def test_some_windows_are_spread_evenly(store: TokenStore, most: int) -> None:
    every = Windows(store.valid, block_size=5)
    some = Windows(store.valid, block_size=5, max_windows=most)
    assert some.n_windows == min(most, every.n_windows)
    firsts = some.batch(0, 10**6).inputs[:, 0].tolist()
    positions = [store.valid.tokens.tolist().index(i) // 5 for i in firsts]
    assert positions == sorted(set(positions))
    if 1 < most < every.n_windows:
        assert (positions[0], positions[-1]) == (0, every.n_windows - 1)
        assert max(np.diff(positions)) - min(np.diff(positions)) <= 1
    weights = some.batch(0, 10**6).weights
    assert some.n_targets == (some.n_windows * 5 if weights is None else int(weights.sum()))


def test_windows_over_too_little_text(tmp_path: Path) -> None:
    store = make(tmp_path / "s", ["abcd"], valid_ratio=0.5)
    store.valid._tokens = store.valid.tokens[:1]
    windows = Windows(store.valid, block_size=4)
    assert (windows.n_windows, windows.n_targets) == (0, 0)


def test_a_file_that_is_cut_is_an_error_not_the_end_of_the_process(tmp_path: Path) -> None:
    store = make(tmp_path / "s", ["x" * 1121], encoder=IdVocabulary())
    batches, windows = Batches(store, block_size=8, seed=0), Windows(store.valid, block_size=8)
    for side in ("train", "valid"):
        os.truncate(tmp_path / "s" / f"{side}.bin", 10)
    for read in (lambda: batches.batch(0, 50), lambda: windows.batch(0, 50), lambda: store.train.tokens):
        with pytest.raises(StoreError, match="bin: was cut while it was in use .found 10 bytes; expected"):
            read()
