"""Kernels beside plain products in double precision, on a CPU and, where there is one, on a GPU:
`pytest tests/trainer/test_devices.py` there shows what a machine without one cannot."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from trainer.context_parallel import SharedPlaces, positions_of
from trainer.host_copies import HostCopies
from trainer.model.attend import attend, make_ready
from trainer.model.experts import grouped_product
from trainer.model.places import Places, documents_of

APART = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Norm of the largest difference, over that of what it is from."""


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    torch.use_deterministic_algorithms(True)
    yield torch.device(request.param)
    torch.use_deterministic_algorithms(False)


def apart(found: list[Tensor], exact: list[Tensor]) -> float:
    pairs = zip(found, exact, strict=True)
    return max(float((a.double() - b).norm() / b.norm().clamp(min=1e-30)) for a, b in pairs)


def with_gradients(of: Callable[..., Tensor], weight: Tensor, *given: Tensor) -> list[Tensor]:
    """What it is of these, and the gradients of it, weighted."""
    out = of(*given)
    return [out, *torch.autograd.grad(out, given, weight.to(out.dtype))]


def places_of(tokens: Tensor, width: int, ranks: int) -> Places:
    """Of all tokens, or of a context-parallel rank's."""
    length, on = tokens.shape[1], tokens.device
    table = torch.ones(length, width, device=on)
    documents = documents_of(tokens, 0)
    if ranks == 1:
        return Places(tokens.shape, table, table, documents)
    order = [positions_of(rank, ranks, length).to(on) for rank in range(ranks)]
    shared = {"mine": order[0], "all_ranks": torch.cat(order), "mesh": None}
    return SharedPlaces(tokens.shape, table, table, documents, **shared)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "value_width", "length", "window", "ranks", "dtype"),
    [
        pytest.param(8, 2, 64, 64, 64, None, 1, torch.bfloat16, id="short"),
        pytest.param(8, 2, 128, 128, 1000, None, 1, torch.bfloat16, id="no whole blocks"),
        pytest.param(8, 2, 128, 128, 1024, 100, 1, torch.bfloat16, id="window"),
        pytest.param(8, 8, 192, 128, 1024, None, 1, torch.bfloat16, id="latent"),
        pytest.param(4, 2, 16, 16, 256, None, 1, torch.float32, id="fp32"),
        pytest.param(8, 2, 64, 64, 1024, 100, 2, torch.bfloat16, id="context parallel"),
    ],
)
def test_attention_and_its_gradients_are_those_of_exact_products_and_the_same_twice(
    device: torch.device,
    heads: int,
    kv_heads: int,
    width: int,
    value_width: int,
    length: int,
    window: int | None,
    ranks: int,
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    places = places_of(torch.randint(0, 200, (2, length), device=device), width, ranks)
    sizes = ((heads, length // ranks, width), (kv_heads, length, width))
    q, k, v = (
        torch.randn(2, *size, device=device, dtype=dtype, requires_grad=True)
        for size in (*sizes, (kv_heads, length, value_width))
    )
    weight = torch.randn(2, heads, length // ranks, value_width, device=device)
    make_ready(places, window, min(width, value_width))
    found, again = (
        with_gradients(lambda q, k, v: attend(q, k, v, places, window), weight, q, k, v)
        for _ in range(2)
    )

    def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (part.repeat_interleave(heads // kv_heads, 1) for part in (k, v))
        scores: Tensor = (q @ k.mT) * width**-0.5
        return scores.masked_fill(~places.mask(window), -torch.inf).softmax(-1) @ v

    doubles = [part.detach().double().requires_grad_() for part in (q, k, v)]
    assert apart(found, with_gradients(exact, weight, *doubles)) < APART[dtype]
    assert all(map(torch.equal, found, again))


@pytest.mark.parametrize(
    "counts",
    [(0, 100, 0, 0, 28, 1, 127, 0), (256, 0, 0, 0, 0, 0, 0, 0), (32,) * 8, (0,) * 8],
    ids=["uneven", "all to one", "even", "none"],
)
def test_rows_go_by_their_experts_and_one_without_any_has_no_gradient(
    device: torch.device, counts: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    # What a kernel leaves unwritten shows: its memory was this.
    torch.full((1 << 22,), torch.nan, device=device, dtype=torch.bfloat16)
    x = torch.randn(sum(counts), 512, device=device, dtype=torch.bfloat16, requires_grad=True)
    weights = torch.randn(8, 512, 256, device=device, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(sum(counts), 256, device=device)
    of_each = torch.tensor(counts, device=device)
    found = with_gradients(lambda x, w: grouped_product(x, of_each, w), weight, x, weights)

    def exact(x: Tensor, w: Tensor) -> Tensor:
        return torch.cat([a @ b for a, b in zip(x.split(list(counts)), w, strict=True)])

    doubles = [part.detach().double().requires_grad_() for part in (x, weights)]
    assert apart(found, with_gradients(exact, weight, *doubles)) < APART[torch.bfloat16]
    assert not any(found[2][expert].any() for expert, count in enumerate(counts) if not count)


def test_copies_for_a_checkpoint_are_what_was_queued_before_them(device: torch.device) -> None:
    copies = HostCopies(device)
    held = {name: torch.zeros(1 << 20, device=device) for name in "abc"}
    for step in range(3):
        for weight in held.values():
            for _ in range(20):
                weight.add_(1.0)
        future = copies.begin(held)
        torch.ones(512, 512, device=device) @ torch.ones(512, 512, device=device)
        made = future.result()
        assert all((made[name] == 20.0 * (step + 1)).all() for name in held)
