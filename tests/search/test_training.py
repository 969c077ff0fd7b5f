"""A trial: the probe beside the next epoch gives what a probe between the epochs would have given."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx

from conet_fx import SearchConfig, analyze
from conet_fx.errors import SearchError
from conet_fx.probe import NonFiniteError, probe
from conet_fx.search.adas import AdaS
from conet_fx.search.distributed import make_fabric
from conet_fx.search.history import Epoch
from conet_fx.search.hooks import Hooks
from conet_fx.search.randomness import seed_everything
from conet_fx.search.training import train_epoch
from conet_fx.search.trial import TrialTraining
from tests.tiny import TinyNet, tiny_loader


def candidate() -> fx.GraphModule:
    return analyze(TinyNet(), torch.zeros(2, 1, 6, 6)).resize({})


def config(scheduler: str) -> SearchConfig:
    return SearchConfig(lr=0.05, epochs_per_trial=5, scheduler=scheduler, accelerator="cpu")  # type: ignore[arg-type]


def one_after_the_other(settings: SearchConfig) -> tuple[list[Epoch], fx.GraphModule]:
    """Train an epoch, probe, set the rates; as the paper writes it."""
    loader, fabric = tiny_loader(), make_fabric(settings)
    seed_everything(0, 1, loader)
    network = candidate()
    adas = AdaS(network, settings.lr, beta=settings.beta)
    model, optimizer = fabric.setup(network, adas)
    epochs = []
    for number in range(1, settings.epochs_per_trial + 1):
        rates = adas.learning_rates
        loss, accuracy = train_epoch(model, optimizer, loader, fabric, F.cross_entropy, "")
        layers = probe(network)
        if settings.scheduler == "adas":
            adas.epoch_end(layers)
        epochs.append(Epoch(number, loss, accuracy, rates, layers, 0.0))
    return epochs, network


@pytest.mark.parametrize("scheduler", ["adas", "none"])
def test_the_probe_beside_changes_nothing(scheduler: str) -> None:
    settings = config(scheduler)
    expected, trained = one_after_the_other(settings)
    loader = tiny_loader()
    seed_everything(0, 1, loader)
    network = candidate()
    shown: list[Epoch] = []
    trial = TrialTraining(network, loader, settings, make_fabric(settings), Hooks(), 1)
    epochs = trial.run(shown.append, lambda ended: None)
    assert list(epochs) == shown
    assert [dataclasses.replace(epoch, seconds=0.0) for epoch in epochs] == expected
    assert all(epoch.seconds > 0 for epoch in epochs)
    for name, value in network.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]), name
    rates = {rate for epoch in epochs for rate in epoch.learning_rates.values()}
    assert (len(rates) > 1) == (scheduler == "adas")


class Diverging:
    """From the second epoch on its inputs are NaN; before that, the weights become so after the last step."""

    def __init__(self, network: fx.GraphModule) -> None:
        self.network, self.epoch = network, 0

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        for images, labels in tiny_loader():
            yield (images if self.epoch == 1 else images * float("nan")), labels
        if self.epoch == 1:
            with torch.no_grad():
                self.network.get_parameter("b.weight").fill_(float("nan"))


@pytest.mark.parametrize("scheduler", ["adas", "none"])
def test_weights_that_diverged_are_named_before_the_loss_that_follows(scheduler: str) -> None:
    network = candidate()
    settings = config(scheduler)
    trial = TrialTraining(network, Diverging(network), settings, make_fabric(settings), Hooks(), 1)
    with pytest.raises(NonFiniteError, match="'b'"):
        trial.run(lambda epoch: None, lambda ended: None)


def test_a_state_of_other_processes_is_refused() -> None:
    settings = config("adas")
    trial = TrialTraining(candidate(), tiny_loader(), settings, make_fabric(settings), Hooks(), 4)
    state = trial.state()
    with pytest.raises(SearchError, match="trial 4 was begun by 2 processes, these are 1: go on with as many"):
        trial.load({**state, "random": state["random"] * 2})


def test_it_begins_once_the_loader_has_begun() -> None:
    """A process that the loader forks while another thread holds a lock would wait for it forever."""
    order: list[str] = []

    class Loader:
        def __iter__(self) -> Iterator[Any]:
            order.append("loader")
            return iter(tiny_loader())

    settings = config("none")
    network = candidate()
    loss = train_epoch(
        network,
        torch.optim.SGD(network.parameters(), 0.1),
        Loader(),
        make_fabric(settings),
        F.cross_entropy,
        "",
        on_start=lambda: order.append("begun"),
    )
    assert order == ["loader", "begun"]
    assert loss[0] > 0
    assert not [thread for thread in threading.enumerate() if "probe" in thread.name]
