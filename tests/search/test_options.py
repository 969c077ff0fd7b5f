"""The options of training, the hooks and the budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import conet_fx
from conet_fx.search.bounds import bounded
from conet_fx.search.distributed import make_fabric
from conet_fx.search.packing import pack, unpack
from conet_fx.search.training import train_epoch
from tests.tiny import QUICK, TinyNet, tiny_loader

CONFIG = conet_fx.SearchConfig(accelerator="cpu")


def search(loader: Any = None, **settings: Any) -> conet_fx.SearchResult:
    loader = tiny_loader() if loader is None else loader
    return conet_fx.optimize(TinyNet(), loader, progress=False, **{**QUICK, "accelerator": "cpu", **settings})


# --- steps ----------------------------------------------------------------------------------------------------


def plain() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Without batch norm, so that the mean over parts of a batch is that over the whole."""
    torch.manual_seed(0)
    model = TinyNet()
    model.norm = nn.Identity()  # type: ignore[assignment]
    return model, torch.optim.SGD(model.parameters(), 0.1)


def epoch(batches: list[Any], **settings: Any) -> tuple[dict[str, Tensor], tuple[float, float | None]]:
    config = conet_fx.SearchConfig(accelerator="cpu", **settings)
    fabric = make_fabric(config)
    model, optimizer = fabric.setup(*plain())
    found = train_epoch(model, optimizer, batches, fabric, F.cross_entropy, "", config=config)
    return {name.removeprefix("_forward_module."): value for name, value in model.state_dict().items()}, found


def batches(size: int) -> list[tuple[Tensor, Tensor]]:
    images, labels = tiny_loader().dataset.tensors
    return list(zip(images.split(size), labels.split(size), strict=True))


@pytest.mark.parametrize(("size", "accumulate"), [(16, 2), (8, 4), (16, 3)])
def test_accumulated_batches_make_the_step_of_one(size: int, accumulate: int) -> None:
    weights, (loss, accuracy) = epoch(batches(size), accumulate=accumulate)
    expected, (one, hits) = epoch(batches(size * accumulate))
    assert loss == pytest.approx(one)
    assert accuracy == pytest.approx(hits)
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_gradients_are_clipped_to_their_norm() -> None:
    start = plain()[0].state_dict()
    weights, _ = epoch(batches(96), clip_norm=0.01)
    moved = torch.cat([(weights[name] - value).flatten() for name, value in start.items()]).norm()
    assert float(moved) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_labels_are_smoothed() -> None:
    smooth = search(label_smoothing=0.3, trials=1).history[0].epochs[0].loss
    by_hand = search(loss_fn=lambda output, target: F.cross_entropy(output, target, label_smoothing=0.3), trials=1)
    assert smooth == by_hand.history[0].epochs[0].loss != search(trials=1).history[0].epochs[0].loss


def test_channels_last_reaches_weights_and_images() -> None:
    seen = []

    class Watching(TinyNet):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    config = conet_fx.SearchConfig(accelerator="cpu", channels_last=True)
    fabric = make_fabric(config)
    model, optimizer = fabric.setup(watching := Watching(), torch.optim.SGD(watching.parameters(), 0.1))
    images = torch.randn(6, 1, 6, 6).expand(6, 4, 6, 6).contiguous()
    watching.a = nn.Conv2d(4, 8, 3, padding=1)
    train_epoch(model, optimizer, [(images, torch.arange(6) % 3)], fabric, loss, "", config=config)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert not images.is_contiguous(memory_format=torch.channels_last)
    found = search(channels_last=True, weights="trained", trials=1, initial_channels=8)
    assert found.history[0].epochs[-1].loss == pytest.approx(search(trials=1).history[0].epochs[-1].loss, rel=1e-3)


def test_candidates_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compile, made = torch.compile, []

    def eager(module: nn.Module, **settings: Any) -> Any:  # Fabric compiles its own wrapper again
        made.append(module)
        return compile(module, **{**settings, "backend": "eager"})

    monkeypatch.setattr(torch, "compile", eager)
    compiled = search(compile=True, weights="trained")
    assert len(made) >= 2
    plain = search(weights="trained")
    assert compiled.sizes == plain.sizes
    assert compiled.history[1].epochs[1].loss == pytest.approx(plain.history[1].epochs[1].loss, rel=1e-4)
    assert not any("_orig_mod" in name for name in compiled.model.state_dict())


# --- hooks ----------------------------------------------------------------------------------------------------


def test_optimizer_and_schedule_of_the_user() -> None:
    rates = []

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    history = search(
        optimizer_fn=lambda model: torch.optim.AdamW(model.parameters(), 0.01),
        scheduler_fn=schedule,
        epochs_per_trial=3,
    ).history
    for trial in history:
        rates.append([set(epoch.learning_rates.values()) for epoch in trial.epochs])
        assert trial.epochs[0].learning_rates.keys() == trial.epochs[0].layers.keys()
    assert rates == [[{0.01}, {0.005}, {0.0025}]] * 2


def test_a_schedule_takes_the_place_of_adas() -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, threshold=10)

    epochs = search(scheduler_fn=schedule, trials=1, epochs_per_trial=4).history[0].epochs
    assert [next(iter(epoch.learning_rates.values())) for epoch in epochs] == pytest.approx(
        [0.03, 0.003, 0.0003, 0.00003]
    )


class Dicts:
    """A loader whose batches are dicts."""

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        for images, labels in tiny_loader():
            yield {"image": images, "label": labels}


def test_an_epoch_of_the_user_on_batches_of_any_kind() -> None:
    def train(model: nn.Module, optimizer: torch.optim.Optimizer, loader: Any, fabric: Any) -> tuple[float, float]:
        losses = []
        for batch in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(batch["image"]), batch["label"])
            fabric.backward(loss)
            optimizer.step()
            losses.append(loss.item())
        return sum(losses) / len(losses), 0.25

    result = search(Dicts(), train_epoch=train, example_inputs=torch.zeros(2, 1, 6, 6), epochs_per_trial=3)
    pairs = [(batch["image"], batch["label"]) for batch in Dicts()]
    expected = search(pairs, epochs_per_trial=3)
    assert result.sizes == expected.sizes
    assert result.history[0].epochs[-1].loss == pytest.approx(expected.history[0].epochs[-1].loss)
    assert result.history[0].epochs[-1].accuracy == 0.25
    assert result.cost == expected.cost
    assert search(train_epoch=lambda *_: 1.5, trials=1).history[0].epochs[0].accuracy is None


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"loss_fn": 3}, TypeError, "loss_fn=3: pass a callable"),
        ({"loss_fn": F.mse_loss, "train_epoch": lambda *_: 0.0}, TypeError, "not both"),
        ({"optimizer_fn": lambda model: 3}, TypeError, "optimizer_fn returned a int"),
        ({"train_epoch": lambda *_: float("nan")}, conet_fx.SearchError, r"returned the loss nan in trial 1, epoch 1"),
        ({"loader": Dicts()}, TypeError, "must be a pair"),
        ({"loader": Dicts(), "train_epoch": lambda *_: 0.0}, TypeError, "must be a pair"),
        ({"example_inputs": torch.zeros(2, 3, 6, 6)}, conet_fx.TraceError, "expected input"),
        (
            {"max_params": 100},
            conet_fx.SearchError,
            r"first candidate has 1,291 parameters .* smaller initial_channels",
        ),
    ],
)
def test_refusals(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        search(**settings)


def test_memory_that_runs_out_is_told_in_one_sentence() -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(
        conet_fx.SearchError, match=r"out of memory in trial 1, epoch 1: .* 1,291 parameters, .* a 8, .*"
    ):
        search(loss_fn=loss)
    with pytest.raises(conet_fx.SearchError, match="out of memory"):
        search(loss_fn=lambda output, target: torch.empty(2**50).sum())


# --- budget ---------------------------------------------------------------------------------------------------


def test_growth_stays_within_the_budget() -> None:
    growing: dict[str, Any] = {"delta": 1e-9, "mu": 1e9, "lr": 0.1, "scheduler": "none", "epochs_per_trial": 8}
    growing.update(initial_channels=12, trials=3)
    free = search(**growing)
    assert free.history[0].params < free.history[1].params < free.history[2].params
    bound = free.history[2].params - 100
    held = search(**growing, max_params=bound)
    assert max(trial.params for trial in held.history) <= bound
    assert held.cost.params <= bound
    assert held.history[1].params == free.history[1].params
    reasons = [group.reason for trial in held.history for group in trial.groups.values()]
    assert any("by the budget" in reason for reason in reasons)
    macs = free.history[1].macs
    assert max(trial.macs for trial in search(**growing, max_macs=macs).history) <= macs


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 40), st.integers(1, 80), st.integers(1, 8))),
    st.integers(0, 400),
)
def test_bounded_growth(groups: dict[str, tuple[int, int, int]], budget: int) -> None:
    before = {name: low * multiple for name, (low, _, multiple) in groups.items()}
    after = {name: high * multiple for name, (_, high, multiple) in groups.items()}
    multiples = {name: multiple for name, (_, _, multiple) in groups.items()}

    def fits(sizes: Mapping[str, int]) -> bool:
        return sum(sizes.values()) <= budget

    found = bounded(before, after, multiples, fits)
    for name, size in found.items():
        assert size % multiples[name] == 0
        assert min(before[name], after[name]) <= size <= after[name]
        assert size == after[name] or before[name] < after[name]
    least = {name: min(before[name], after[name]) for name in groups}
    assert fits(found) or found == least
    assert found == after or not fits(after)


# --- states ---------------------------------------------------------------------------------------------------

NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.lists(children, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=8) | st.integers(), children, max_size=3)
        | st.just("__tensor__").map(lambda key: {key: 1})
    ),
    max_leaves=12,
)


@given(NESTED)
def test_states_come_back_as_they_were(value: Any) -> None:
    import json

    packed, tensors = pack(value)
    assert tensors == {}
    again = unpack(json.loads(json.dumps(packed, allow_nan=False)), tensors)
    assert repr(again) == repr(value)


def test_tensors_come_back_as_they_were() -> None:
    value = {"a": [torch.arange(3), {"b": (torch.tensor(1.5), torch.zeros(0, 2, dtype=torch.uint8))}], 3: torch.ones(2)}
    packed, tensors = pack(value)
    again = unpack(packed, tensors)
    assert torch.equal(again["a"][0], value["a"][0])
    assert again["a"][1]["b"][1].shape == (0, 2)
    assert torch.equal(again[3], value[3])
    with pytest.raises(TypeError, match=r"a\.1 holds a set, which only pickle could save"):
        pack({"a": [0, {1}]})
