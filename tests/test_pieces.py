"""Models that torch.fx cannot follow as a whole (detectors), all the way: searched, saved, applied to their class."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import conet_fx
from conet_fx.errors import ExportError, RecipeError, TraceError
from conet_fx.report import collect, page

IMAGES = [torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(n)) for n in range(4)]
TARGETS = [{"label": torch.tensor(n % 3)} for n in range(4)]


class Doubled(nn.Conv2d):
    """A convolution with a forward of its own, which reads its channel counts."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x).view(len(x), self.groups, self.out_channels // self.groups, *x.shape[2:])
        return 2 * x.flatten(1, 2)


class Detector(nn.Module):
    """Images in a list; how often the maps are halved depends on them. Losses in train mode, else scores."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            Doubled(width, 6, 1, groups=2),
        )
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Sequential(nn.Conv2d(6, width, 1), nn.ReLU(), nn.Conv2d(width, 3, 1))
        self.factor = nn.Parameter(torch.tensor(0.5))  # in no piece

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        x = self.body(torch.stack(images))
        while bool((x.abs() > 1).any()):
            x = x * self.factor
        tokens = x.flatten(2).transpose(1, 2)
        x = x + self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).view_as(x)
        scores = self.head(x).mean((2, 3))
        if not self.training:
            return [{"scores": each} for each in scores]
        assert targets is not None
        labels = torch.stack([target["label"] for target in targets])
        return {"class": nn.functional.cross_entropy(scores, labels), "size": scores.square().mean()}


def planned(model: nn.Module) -> conet_fx.ChannelPlan:
    plan = conet_fx.analyze(model, (IMAGES, TARGETS))
    assert plan.trace.pieces
    assert set(plan.trace.pieces.paths) == {"body", "attention", "head"}
    return plan


def saved(folder: Path, sizes: dict[str, int] | None = None) -> tuple[nn.Module, nn.Module]:
    """A detector, and what it was resized to and saved."""
    torch.manual_seed(0)
    model = Detector()
    plan = planned(model)
    resized = plan.resize(sizes or {"body.0": 12, "head.0": 5}, init="inherit")
    conet_fx.save(resized, plan, folder)
    return model, resized


def scores(module: nn.Module) -> Tensor:
    return torch.stack([each["scores"] for each in copy.deepcopy(module).eval()(IMAGES)])


# --- kept on disk -----------------------------------------------------------------------------------------------------


def test_a_detector_is_saved_and_applied_to_its_class(tmp_path: Path) -> None:
    _, resized = saved(tmp_path)
    applied = conet_fx.apply(Detector(), tmp_path)
    assert type(applied) is Detector
    assert torch.equal(scores(applied), scores(resized))
    assert [(name, p.shape) for name, p in applied.named_parameters()] == [
        (name, p.shape) for name, p in resized.named_parameters()
    ]
    assert applied.body[3].groups == applied.body[3].in_channels == 12
    assert applied.body[4].weight.shape == (6, 6, 1, 1)
    wider = conet_fx.apply(Detector(width=20), tmp_path)  # whatever the instance had
    assert torch.equal(scores(wider), scores(resized))
    assert wider.training


def test_what_needs_a_graph_says_what_to_do(tmp_path: Path) -> None:
    _, resized = saved(tmp_path / "net")
    with pytest.raises(RecipeError, match=r"no graph, since .*Detector' was traced in pieces.*conet_fx.apply"):
        conet_fx.load(tmp_path / "net")
    with pytest.raises(RecipeError, match=r"no graph.*conet_fx.apply"):
        conet_fx.export(tmp_path / "net", tmp_path / "net.py")
    with pytest.raises(ExportError, match=r"no torch.fx.GraphModule.*conet_fx.save and conet_fx.apply"):
        conet_fx.export(resized, tmp_path / "net.py")
    assert not (tmp_path / "net.py").exists()


class Other(Detector):
    """Of another class."""


def deeper() -> nn.Module:
    model = Detector()
    model.head.append(nn.Conv2d(3, 3, 1))
    return model


def strided() -> nn.Module:
    model = Detector()
    model.body[0].stride = (2, 2)
    return model


def dense() -> nn.Module:
    model = Detector()
    model.body[0] = nn.Conv1d(3, 8, 3, bias=False)
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Other, r"its class is tests.test_pieces.Other, not tests.test_pieces.Detector"),
        (deeper, r"the recipe has no 'head.3.weight'"),
        (strided, r"module 'body.0' has stride=.*2, 2.* in the model"),
        (dense, r"module 'body.0' is a torch.nn.Conv1d in the model, a torch.nn.Conv2d in the recipe"),
    ],
)
def test_another_model_is_refused(make: Callable[[], nn.Module], words: str, tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(RecipeError, match=words):
        conet_fx.apply(make(), tmp_path)


# --- searched ---------------------------------------------------------------------------------------------------------


LOADER = [((IMAGES, TARGETS), None), ((IMAGES[::-1], TARGETS[::-1]), None)]


def total(losses: dict[str, Tensor], target: None) -> Tensor:
    return losses["class"] + losses["size"]


def search(model: nn.Module, **options: Any) -> conet_fx.SearchResult:
    options = {"trials": 2, "epochs_per_trial": 2, "initial_channels": 6, "lr": 0.05, "progress": False} | options
    return conet_fx.optimize(model, LOADER, loss_fn=total, **options)


def test_a_detector_is_searched(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Detector()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = search(model, run_dir=tmp_path / "run", weights="trained")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    again = search(model, weights="trained")
    assert isinstance(first.model, Detector)
    assert first.sizes.keys() == {group.name for group in planned(model).free}
    assert torch.equal(scores(first.model), scores(again.model))
    assert first.cost.params == sum(p.numel() for p in first.model.parameters())
    assert all(trial.epochs[-1].loss > 0 for trial in first.history)
    first.save(tmp_path / "found")
    assert torch.equal(scores(conet_fx.apply(model, tmp_path / "found")), scores(first.model))
    assert '"body.4"' in page(collect(tmp_path / "run"))


def test_a_search_of_a_detector_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Detector()
    whole = search(model)

    class Cut(Exception):
        pass

    def cut(losses: dict[str, Tensor], target: None) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise Cut
        return total(losses, target)

    steps = 0
    with pytest.raises(Cut):
        conet_fx.optimize(
            model,
            LOADER,
            loss_fn=cut,
            trials=2,
            epochs_per_trial=2,
            initial_channels=6,
            lr=0.05,
            progress=False,
            run_dir=tmp_path,
            checkpoint_seconds=0,
        )
    resumed = search(model, run_dir=tmp_path, resume=True, checkpoint_seconds=0)
    assert resumed.sizes == whole.sizes
    assert torch.equal(scores(resumed.model), scores(whole.model))


def test_the_default_loss_is_held_against_what_the_model_returns() -> None:
    with pytest.raises(conet_fx.SearchError, match=r"returns a dict with keys \['class', 'size'\].*pass loss_fn"):
        conet_fx.optimize(Detector(), LOADER, progress=False)


def test_no_piece_no_search() -> None:
    class Opaque(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 0) else -x

    with pytest.raises(TraceError, match="a condition depends on the data"):
        conet_fx.optimize(Opaque(), [(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))], progress=False)
