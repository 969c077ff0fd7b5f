"""The probe beside something else: the same bits as at once, errors in the caller, nothing lost or left behind."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from conet_fx.probe import NonFiniteError, Prober, layer_metrics, probe
from conet_fx.probe.metrics import measure
from conet_fx.probe.threads import crew
from tests.probe.test_metrics import low_rank_weight


def network(seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(12, 32, 3), nn.ReLU(), nn.Conv2d(32, 24, 1), nn.ConvTranspose2d(24, 8, 2), nn.Linear(8, 8)
    )
    with torch.no_grad():
        for layer in model:
            if hasattr(layer, "weight"):
                layer.weight.copy_(low_rank_weight(*layer.weight.shape, seed=seed))
    return model


def scale(model: nn.Module, factor: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Measurements beside wait for it."""
    beside = sys.modules[Prober.__module__]
    measure: Callable[..., Any] = beside.measure
    event = threading.Event()

    def wait_first(*args: Any, **kwargs: Any) -> Any:
        assert event.wait(60)
        return measure(*args, **kwargs)

    monkeypatch.setattr(beside, "measure", wait_first)
    return event


def test_weights_are_those_of_the_moment_and_the_caller_goes_on(gate: threading.Event) -> None:
    model = network()
    expected = probe(model, linear=True)
    with Prober(linear=True) as prober:
        pending = prober.submit(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        assert not pending.done()
        gate.set()
        assert pending.result() == expected
        assert pending.done()
        assert pending.result() == expected
    assert probe(model, linear=True) != expected


def test_each_of_many_is_measured_though_nobody_waits(gate: threading.Event) -> None:
    models = [network(seed) for seed in range(5)]
    with Prober(tau="approximate") as prober:
        pending = [prober.submit(model) for model in models]
        gate.set()
    assert all(one.done() for one in pending)
    assert [one.result() for one in pending] == [probe(model, tau="approximate") for model in models]


def test_errors_surface_where_the_result_is_asked_for() -> None:
    good, bad = network(), network()
    with torch.no_grad():
        bad[2].weight[0, 0] = math.nan
    with Prober() as prober:
        first, second, third = prober.submit(good), prober.submit(bad), prober.submit(good)
        with pytest.raises(NonFiniteError, match="'2'") as caught:
            second.result()
        assert caught.value.metrics.keys() == {"0", "3"}
        assert first.result() == third.result() == probe(good)


def test_errors_that_nobody_asked_for_surface_at_the_end() -> None:
    bad = network()
    scale(bad, math.inf)
    with pytest.raises(NonFiniteError), Prober() as prober:
        prober.submit(bad)


def test_an_error_of_the_caller_is_not_hidden() -> None:
    bad = network()
    scale(bad, math.inf)
    with pytest.raises(KeyError, match="mine"), Prober() as prober:
        {prober.submit(bad): 1}["mine"]


def test_what_cannot_be_measured_is_refused_at_once() -> None:
    with Prober() as prober, pytest.raises(ValueError, match="the weight of '0' is on the meta device"):
        prober.submit(nn.Sequential(nn.Conv2d(2, 2, 1, device="meta")))


def test_after_the_block_nothing_is_taken() -> None:
    with Prober() as prober:
        pass
    with pytest.raises(RuntimeError, match="after shutdown"):
        prober.submit(network())


class TestThreads:
    @pytest.fixture(autouse=True)
    def three_threads(self) -> Any:
        count = torch.get_num_threads()
        torch.set_num_threads(3)
        yield
        torch.set_num_threads(count)

    def test_their_number_does_not_change_the_answer(self) -> None:
        weight = low_rank_weight(256, 192, 3, 3, rank=20, noise=0.3)
        several = layer_metrics(weight)
        torch.set_num_threads(1)
        assert layer_metrics(weight) == several

    def test_their_number_stays(self) -> None:
        def in_a_new_thread() -> int:
            found: list[int] = []
            thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            return found[0]

        probe(network())
        assert (torch.get_num_threads(), in_a_new_thread()) == (3, 3)
        with Prober() as prober:
            prober.submit(network()).result()
            assert (torch.get_num_threads(), in_a_new_thread()) == (3, 3)
            with crew(2, "helper") as helpers:
                assert (torch.get_num_threads(), in_a_new_thread()) == (3, 3)
                assert {helpers.submit(torch.get_num_threads).result() for _ in range(8)} == {1}
        scale(bad := network(), math.nan)
        with pytest.raises(NonFiniteError):
            probe(bad)
        assert torch.get_num_threads() == 3


def test_helpers_do_not_change_the_answer() -> None:
    """They decompose what a GPU has multiplied."""
    torch.manual_seed(0)
    shapes = [(300, 20, 3), (1, 7, 1), (40, 8, 9), (8, 8, 1), (24, 16, 4), (2, 3, 5), *[(12, 64, 9)] * 5]
    weights = {str(number): low_rank_weight(*shape) for number, shape in enumerate(shapes)}
    weights["bad"] = torch.full((16, 8, 9), math.nan)
    found = []
    for count in (0, 1, 3):
        with contextlib.ExitStack() as stack, pytest.raises(NonFiniteError, match="'bad'") as error:
            measure(weights, helpers=stack.enter_context(crew(count, "helper")) if count else None)
        found.append(error.value.metrics)
    assert found[0] == found[1] == found[2]
    assert list(found[0]) == list(weights)[:-1]


@pytest.mark.gpu
def test_on_a_stream_of_its_own() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = network().cuda()
    expected = probe(model)
    with Prober() as prober:
        for _ in range(20):
            pending = prober.submit(model)
            scale(model, 3.0)  # queued behind the copies
            scale(model, 1 / 3)
            found = pending.result()
            assert found.keys() == expected.keys()
            assert all(found[path].rank_out == expected[path].rank_out for path in expected)
            assert found["0"].condition_out == pytest.approx(expected["0"].condition_out)
