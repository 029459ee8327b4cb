"""Written text to the nearest items: texts as embeddings of a language model, L2 to every item,
exactly.

An embedding is the last layer's hidden state of the text's last token, as in BIGRec's code, or the
mean over its tokens. Knows nothing about prompts, users or files; only token ids and plain tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from groundrec.core.errors import SearchError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["CHUNK", "Pooling", "Vote", "distances", "embed", "nearest", "nearest_of"]

Pooling = Literal["last", "mean"]
Vote = Literal["best", "nearest", "mean"]
"""A query's distance to an item: that of its first text, of its nearest, or the mean of all."""

CHUNK = 2048
"""Items compared at a time."""
TOKENS = 8192
"""Tokens embedded at a time, padding included."""
EXACT = 1 << 17
"""Numbers compared at a time in float64: what a processor's cache holds."""
ROUNDING = 2.0**-24
"""Half the distance from 1 to the next float32."""
SPARE = 16
"""Candidates kept beyond `k`, whose distances are then computed without cancellation."""


@torch.inference_mode()
def embed(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], pooling: Pooling = "last"
) -> Tensor:
    """Return the embedding of each row of token ids, float32 on the CPU. Shape: [n, D].

    Raises `SearchError` for a row without tokens, and where the model yields numbers that are not
    finite.
    """
    if any(not len(row) for row in rows):
        raise SearchError(
            "a text without tokens has no embedding", accepted="at least a start token"
        )
    out = torch.empty(len(rows), model.config.get_text_config().hidden_size)
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    while by_length:
        size = max(1, TOKENS // len(rows[by_length[-1]]))
        part = by_length[-size:]
        by_length = by_length[:-size]
        out[part] = _embed([rows[i] for i in part], model, pooling).float().cpu()
    return _finite(out, "the language model's embeddings")


def _embed(rows: list[Sequence[int]], model: PreTrainedModel, pooling: Pooling) -> Tensor:
    # Padded on the right and causal: real tokens never look at the padding, so no mask is needed.
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    if pooling == "last":
        return hidden[torch.arange(len(rows), device=ids.device), lengths - 1]
    real = torch.arange(width, device=ids.device) < lengths[:, None]
    return (hidden.float() * real[:, :, None]).sum(1) / lengths[:, None]


@torch.inference_mode()
def nearest(
    texts: Tensor,
    items: Tensor,
    k: int,
    vote: Vote = "best",
    allowed: Tensor | None = None,
    *,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Return the `k` nearest items of each query, nearest first, and their L2 distances: int64 and
    float32 [Q, k].

    The order is that of distances in float64; ties go to the smaller number. A pass in float32, a
    chunk of items at a time, leaves a few candidates; where its rounding could have lost an item,
    the query is compared again in float64. Unfilled ranks hold -1 and infinity.

    Args:
        texts: Embeddings of each query's texts, likeliest first, on the device to compute on.
            Shape: [Q, V, D].
        items: Embeddings of the items, perhaps on another device. Shape: [I, D].
        k: How many items to return.
        vote: How several texts of a query count.
        allowed: Which items a query may be given; all when None. Shape: [Q, I], bool.
        chunk: Items compared at a time.
    """
    texts = _checked(texts, vote)
    _ = _finite(items, "the items' embeddings")
    centre = items.mean(0).to(texts.device)
    kept = min(k + SPARE, len(items))
    best, found, reach = _candidates(texts - centre, items, centre, kept, vote, allowed, chunk)
    numbers, exact = _ordered(texts, items, found, best, vote)
    numbers = numbers[:, :k]
    exact = exact[:, :k]
    lost = torch.zeros(len(texts), dtype=torch.bool, device=texts.device)
    if kept < len(items):
        # What was left out is farther than the last candidate, less what rounding can have moved
        # both.
        bound = best.amax(1).double() - reach
        lost = ~(exact[:, -1] < (bound if vote == "mean" else bound.clamp(min=0).sqrt()))
    for row in lost.nonzero().flatten().tolist():
        only = None if allowed is None else allowed[row]
        numbers[row], exact[row] = _in_float64(
            texts[row], items, numbers.shape[1], vote, only, chunk
        )
    exact = torch.nn.functional.pad(exact, (0, k - exact.shape[1]), value=torch.inf)
    numbers = torch.nn.functional.pad(numbers, (0, k - numbers.shape[1])).masked_fill(
        exact.isinf(), -1
    )
    return numbers, exact.float()


@torch.inference_mode()
def nearest_of(
    texts: Tensor, items: Tensor, found: Tensor, k: int, vote: Vote = "best"
) -> tuple[Tensor, Tensor]:
    """Return the same among the candidates `found` [Q, c], distinct in a row, where -1 is none. c
    is at least k.
    """
    texts = _checked(texts, vote)
    none = found < 0
    far = torch.zeros(found.shape, device=found.device).masked_fill(none, torch.inf)
    numbers, exact = _ordered(texts, items, found.clamp(min=0), far, vote)
    return numbers[:, :k].masked_fill(exact[:, :k].isinf(), -1), exact[:, :k].float()


@torch.inference_mode()
def distances(texts: Tensor, items: Tensor, vote: Vote = "best", *, chunk: int = CHUNK) -> Tensor:
    """Return the L2 distance of every item to each query's texts. Shape: [Q, I], float32."""
    texts = _checked(texts, vote)
    centre = items.mean(0).to(texts.device)
    centred = ((part - centre) for _, part in _chunks(items, chunk, texts.device))
    texts = texts - centre
    squares = _square_norms(texts)
    table = torch.cat(
        [_voted(_squared(texts, squares, part, part.norm(dim=1)), vote) for part in centred], 1
    )
    return table if vote == "mean" else table.clamp(min=0).sqrt()


def _checked(texts: Tensor, vote: Vote) -> Tensor:
    """Return the texts that vote, in float32."""
    return _finite(texts[:, :1] if vote == "best" else texts, "the texts' embeddings").float()


def _finite(values: Tensor, what: str) -> Tensor:
    finite = torch.isfinite(values.sum(-1))
    if not finite.all():
        raise SearchError(
            f"{what} hold numbers that are not finite",
            value=f"{int((~finite).sum())} of {finite.numel()}",
            accepted="finite numbers; a model that overflows in half precision gives none",
            next_step="look at the loss in metrics.jsonl, or load the model in float32",
        )
    return values


def _chunks(items: Tensor, chunk: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(items), chunk):
        yield start, items[start : start + chunk].to(device, torch.float32, non_blocking=True)


def _square_norms(texts: Tensor) -> Tensor:
    """Return the squared norm of each text. Shape: [q, V, D] → [q · V, 1]."""
    return texts.flatten(0, 1).square().sum(1, keepdim=True)


def _squared(
    texts: Tensor, squares: Tensor, part: Tensor, norms: Tensor, room: Tensor | None = None
) -> Tensor:
    """Return squared distances by one matrix product, in `room` where given. Shape: [q, V, D], [c,
    D] → [q, V, c].

    `squares` are the texts' squared norms, `norms` those of the items, not squared. Shapes: [q · V,
    1], [c].
    """
    flat = texts.reshape(-1, texts.shape[-1])
    out = None if room is None else room[: len(flat) * len(part)].view(len(flat), len(part))
    table = torch.addmm(norms.square(), flat, part.T, alpha=-2, out=out)
    table.add_(squares)
    return table.view(*texts.shape[:2], len(part))


def _voted(squared: Tensor, vote: Vote) -> Tensor:
    """Return what queries and items are compared by, in the order of their distances. Shape: [q, V,
    c] → [q, c].
    """
    if vote == "mean":
        return squared.clamp(min=0).sqrt().mean(1)
    return squared[:, 0] if squared.shape[1] == 1 else squared.amin(1)


def _candidates(
    texts: Tensor,
    items: Tensor,
    centre: Tensor,
    kept: int,
    vote: Vote,
    allowed: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best `kept` items in float32, what they were compared by, [q, kept], and how far
    rounding reaches.
    """
    best = torch.empty(len(texts), 0, device=texts.device)
    found = torch.empty(len(texts), 0, dtype=torch.long, device=texts.device)
    longest = torch.zeros_like(centre[0])
    # One buffer serves every chunk: allocating one per chunk would cost more than the arithmetic.
    most = min(chunk, len(items))
    room = torch.empty(texts.shape[0] * texts.shape[1] * most, device=texts.device)
    centred = torch.empty(most, len(centre), device=texts.device)
    squares = _square_norms(texts)
    for start, whole in _chunks(items, chunk, texts.device):
        part = torch.sub(whole, centre, out=centred[: len(whole)])
        norms = part.norm(dim=1)
        longest = torch.maximum(longest, norms.max())
        table = _voted(_squared(texts, squares, part, norms, room), vote)
        if allowed is not None:
            table = table.masked_fill(~allowed[:, start : start + len(part)], torch.inf)
        full = best.shape[1] == kept
        value, place = _nearer(table, best.amax(1, keepdim=True)) if full else _least(table, kept)
        best, chosen = _least(torch.cat([best, value], 1), kept)
        found = torch.cat([found, place + start], 1).gather(1, chosen)
    # Worst case of D roundings in each of the three sums, of the roots squared, and of the
    # subtraction of the centre.
    sizes = (texts.norm(dim=2).amax(1) + longest).double()
    reach = (texts.shape[2] + 8) * ROUNDING * sizes.square()
    return best, found, reach.sqrt() if vote == "mean" else reach


def _least(table: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` least numbers of each row, all of a shorter one, and their columns, in no
    order.
    """
    return table.topk(min(k, table.shape[1]), largest=False, sorted=False)


def _nearer(table: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers of each row below its `bound` [q, 1], filled up with infinity, and their
    columns.

    Once a few chunks have been seen they are few, and finding them is one comparison of each
    number.
    """
    rows, columns = _places(table < bound)
    counts = rows.bincount(minlength=len(table))
    width = int(counts.max()) if len(counts) else 0
    if (
        width > table.shape[1] // 4
    ):  # many where each item of a catalogue is nearer than the one before: select first
        return _least(table, width)
    places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    value = torch.full((len(table), width), torch.inf, device=table.device)
    value[rows, places] = table[rows, columns]
    place = torch.zeros((len(table), width), dtype=torch.long, device=table.device)
    place[rows, places] = columns
    return value, place


def _places(few: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of what is true, as `nonzero` does, looking at eight places at a
    time.
    """
    eights = torch.nn.functional.pad(few, (0, -few.shape[1] % 8))
    rows, columns = eights.view(torch.int64).nonzero(as_tuple=True)
    one, place = eights.unflatten(1, (-1, 8))[rows, columns].nonzero(as_tuple=True)
    return rows[one], columns[one] * 8 + place


def _ordered(
    texts: Tensor, items: Tensor, found: Tensor, best: Tensor, vote: Vote
) -> tuple[Tensor, Tensor]:
    """Return the candidates in the order of their distances in float64, and these, infinite where
    not allowed.
    """
    (queries, c), (_, voting, dim) = found.shape, texts.shape
    rows = max(1, EXACT // (c * dim * voting))
    exact = torch.empty(found.shape, dtype=torch.double, device=texts.device)
    # One buffer serves all batches: allocating one per batch is slow and fragments memory.
    near = torch.empty(rows * c, dim, dtype=items.dtype, device=items.device)
    room = torch.empty(rows * voting * c, dim, dtype=torch.double, device=texts.device)
    for start in range(0, queries, rows):
        some = texts[start : start + rows]
        numbers = found[start : start + rows]
        part = near[: numbers.numel()]
        torch.index_select(items, 0, numbers.flatten().to(items.device), out=part)
        beside = part.to(texts.device).view(len(some), 1, c, dim)
        exact[start : start + rows] = _apart(some[:, :, None].double(), beside, vote, room)
    exact.masked_fill_(best.isinf(), torch.inf)
    numbers, order = found.sort(1)
    exact, nearest_first = exact.gather(1, order).sort(dim=1, stable=True)
    return numbers.gather(1, nearest_first), exact


def _apart(texts: Tensor, items: Tensor, vote: Vote, room: Tensor | None = None) -> Tensor:
    """Return distances by their definition, in float64. [q, V, 1, D], [q, 1, c, D] → [q, c]."""
    shape = torch.broadcast_shapes(texts.shape, items.shape)
    room = texts.new_empty(shape) if room is None else room[: shape[:-1].numel()].view(shape)
    # Converted first: a difference of mixed types is slower.
    apart = torch.linalg.vector_norm(room.copy_(items).sub_(texts), dim=-1)
    return apart.mean(1) if vote == "mean" else apart.amin(1)


def _in_float64(
    text: Tensor, items: Tensor, k: int, vote: Vote, allowed: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return the `k` nearest items of one query and their distances, every item compared in
    float64. [V, D] → [k].
    """
    few = max(1, min(chunk, EXACT // text.numel()))
    parts = [
        _apart(text[None, :, None].double(), part[None, None], vote)[0]
        for _, part in _chunks(items, few, text.device)
    ]
    whole = torch.cat(parts)
    whole = whole if allowed is None else whole.masked_fill(~allowed, torch.inf)
    exact, numbers = whole.sort(stable=True)
    return numbers[:k], exact[:k]
