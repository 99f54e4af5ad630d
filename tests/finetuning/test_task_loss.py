"""The objective of fine-tuning against sums made row by row, and gradients of pieces against those of the whole."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from firstlight.finetuning import (
    EncodedExample,
    Example,
    Preprocessor,
    TaskLoss,
    TaskRows,
    TaskSpec,
    collate,
    head_of,
    special_tokens,
)
from firstlight.model import GPT
from firstlight.tokenizer import Tokenizer
from small_task import examples, model, spec, tokenizer

FAMILIES = ["gpt1", "gpt2", "gpt3", "llama", "modern"]


@pytest.fixture(scope="module")
def marked() -> Tokenizer:
    return tokenizer().with_special_tokens(special_tokens([spec("classification")]))


def with_head(tokens: Tokenizer, task: TaskSpec, family: str = "gpt2") -> GPT:
    made = model(tokens.vocab_size, family)
    made.add_head(task.name, head_of(task).n_outputs(task))
    torch.nn.init.normal_(made.heads[task.name].weight, std=0.5, generator=torch.Generator().manual_seed(2))
    return made


def use_custom_backward(made: GPT, task: TaskSpec, row: EncodedExample, lm_weight: float) -> torch.Tensor:
    """One row's loss, each sequence by itself and nothing padded."""
    ends, language = [], []
    for ids in row.sequences:
        x = torch.from_numpy(ids).long()[None]
        hidden = made.hidden(x)[0]
        ends.append(hidden.mean(0) if task.pool == "mean" else hidden[-1])
        logits = made(x)[0, :-1]
        language.append(F.cross_entropy(logits, x[0, 1:]))
    head = made.heads[task.name]
    if task.kind == "multiple_choice":
        loss = F.cross_entropy(torch.cat([head(end) for end in ends])[None], torch.tensor([row.label]))
    else:
        said = head(torch.stack(ends).sum(0))
        loss = (
            (said[0] - row.label) ** 2
            if task.kind in ("regression", "similarity")
            else F.cross_entropy(said[None], torch.tensor([row.label]))
        )
    return loss + lm_weight * torch.stack(language).mean()


CASES = {
    "classification": [
        Example(("the day was fine",), 1, "a"),
        Example(("the film was dull and grim and cold",), 0, "b"),
    ],
    "pair": [Example(("the day", "was fine"), 1, "a"), Example(("the film was dull", "and grim"), 0, "b")],
    "similarity": [Example(("the day", "was fine"), 0.8, "a"), Example(("the film was dull", "and grim"), 0.2, "b")],
    "regression": [Example(("the day was fine",), 0.4, "a"), Example(("the film",), 0.9, "b")],
    "multiple_choice": [
        Example(("the day", "was fine", "was dull"), 1, "a"),
        Example(("the film", "and", "grim", "was"), 0, "b"),
    ],
}


@pytest.mark.parametrize("pool", ["last", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", CASES)
def test_a_batch_is_the_sum_of_its_rows(marked: Tokenizer, kind: str, family: str, pool: str) -> None:
    task = spec(kind, pool=pool, **({"scale": (0.0, 5.0)} if kind in ("similarity", "regression") else {}))
    made = with_head(marked, task, family)
    rows = Preprocessor(task, marked, 48)(CASES[kind])
    module = TaskLoss(made, {"t": task}, lm_weight=0.5, dropout=0.0, class_weights={})
    total, count, parts = module(collate(task, rows))
    expected = sum(use_custom_backward(made, task, row, 0.5) for row in rows)
    assert count == len(rows)
    torch.testing.assert_close(total, parts["task_loss"] + 0.5 * parts["lm_loss"])
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad(total, list(made.parameters()), allow_unused=True)
    wanted = torch.autograd.grad(expected, list(made.parameters()), allow_unused=True)
    for name, ours, theirs in zip([n for n, _ in made.named_parameters()], gradients, wanted, strict=True):
        if theirs is not None:
            ours = ours.to_dense() if ours is not None and ours.is_sparse else ours
            torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-4, msg=name)


def test_pieces_add_up_to_the_batch(marked: Tokenizer) -> None:
    task = spec()
    made = with_head(marked, task)
    batch = collate(task, Preprocessor(task, marked, 48)(examples(6)))
    module = TaskLoss(made, {"t": task}, lm_weight=0.5, dropout=0.0, class_weights={})
    whole = module(batch)[0]
    parts = [module(batch.slice_rows(slice(i, i + 2), torch.device("cpu")))[0] for i in (0, 2, 4)]
    torch.testing.assert_close(sum(parts), whole)
    assert batch.count_targets().tolist() == [6.0, 6.0]


@pytest.mark.parametrize("kind", CASES)
def test_rows_stand_by_width_and_a_piece_is_no_wider_than_its_rows(marked: Tokenizer, kind: str) -> None:
    task = spec(kind, **({"scale": (0.0, 5.0)} if kind in ("similarity", "regression") else {}))
    made = with_head(marked, task)
    rows = Preprocessor(task, marked, 48)([*CASES[kind][::-1], *CASES[kind]])
    batch = TaskRows(task, rows).batch(np.array([3, 0, 2, 1]))
    lengths = [max(len(s) for s in row.sequences) for row in rows]
    assert batch.lengths.tolist() == sorted(lengths) and len(set(lengths)) > 1
    first = batch.slice_rows(slice(0, 2), torch.device("cpu"))
    assert first.input_ids.shape[-1] == first.lm_weights.shape[-1] == min(lengths) < batch.input_ids.shape[-1]
    module = TaskLoss(made, {"t": task}, lm_weight=0.5, dropout=0.0, class_weights={})
    parts = [module(batch.slice_rows(slice(i, i + 2), torch.device("cpu")))[0] for i in (0, 2)]
    torch.testing.assert_close(sum(parts), module(collate(task, rows))[0], rtol=1e-4, atol=1e-4)


def test_words_have_a_loss_each(marked: Tokenizer) -> None:
    task = spec("token_classification")
    made = with_head(marked, task)
    rows = Preprocessor(task, marked, 48)(
        [Example(("the", " film", " was"), (0, 1, 0), "a"), Example(("fine",), (1,), "b")]
    )
    module = TaskLoss(made, {"t": task}, lm_weight=0.0, dropout=0.0, class_weights={})
    batch = collate(task, rows)
    total, count, parts = module(batch)
    assert list(parts) == ["task_loss"] and parts["task_loss"] == total
    expected = 0.0
    for row in rows:
        hidden = made.hidden(torch.from_numpy(row.sequences[0]).long()[None])[0]
        logits = made.heads["t"](hidden[list(row.positions)])
        expected += F.cross_entropy(logits, torch.tensor(row.label), reduction="sum")
    assert count == 4 and batch.count_targets().tolist() == [4.0, 4.0]
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)


def test_classes_may_count_unlike(marked: Tokenizer) -> None:
    task = spec()
    made = with_head(marked, task)
    batch = collate(task, Preprocessor(task, marked, 48)(examples(4)))
    plain = TaskLoss(made, {"t": task}, lm_weight=0, dropout=0, class_weights={})
    weighted = TaskLoss(made, {"t": task}, lm_weight=0, dropout=0, class_weights={"t": torch.tensor([0.0, 3.0])})
    of_good = sum(plain(batch.slice_rows(slice(i, i + 1), torch.device("cpu")))[0] for i in (1, 3))
    torch.testing.assert_close(weighted(batch)[0], 3 * of_good)


def test_a_chat_has_the_nats_of_its_answers_alone(marked: Tokenizer) -> None:
    task = spec("chat")
    made = model(marked.vocab_size)
    (row,) = Preprocessor(task, marked, 48)([Example(("the day", "was fine"), None, "x", ("user", "assistant"))])
    module = TaskLoss(made, {"t": task}, lm_weight=0.5, dropout=0.0, class_weights={})
    batch = collate(task, [row])
    total, count, parts = module(batch)
    assert list(parts) == ["lm_loss"] and parts["lm_loss"] == total
    ids = torch.from_numpy(row.sequences[0]).long()[None]
    nats = F.cross_entropy(made(ids)[0, :-1], ids[0, 1:], reduction="none")
    expected = nats[torch.tensor(row.loss_mask[1:])].sum()
    assert count == sum(row.loss_mask) == batch.count_targets()[0]
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)
