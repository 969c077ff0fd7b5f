"""Data that lie on the device: what is handed out is what torchvision's transforms could have made."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

import conet_fx
from conet_fx.data import Augmentation, OnDevice, load, loaders
from tests.data.test_load import write_tree
from tests.tiny import QUICK, TinyNet, tiny_data

CPU = torch.device("cpu")


def pictures(count: int = 40, channels: int = 3) -> TensorDataset:
    images = torch.arange(count * channels * 5 * 4, dtype=torch.float32).reshape(count, channels, 5, 4) + 1
    return TensorDataset(images, torch.arange(count))


def test_each_image_is_a_crop_of_the_padded_one_flipped_or_not() -> None:
    loader = OnDevice(pictures(), Augmentation(pad=2, flip=True, fill=(-1.0, -2.0, -3.0)), 8, 0, CPU)
    fill = torch.tensor([-1.0, -2.0, -3.0])[:, None, None]
    seen = set()
    for images, labels in loader:
        for image, label in zip(images, labels, strict=True):
            original = loader.images[label]
            padded = torch.where(F.pad(torch.ones(5, 4), 4 * [2]).bool(), F.pad(original, 4 * [2]), fill)
            crops = {(y, x): padded[:, y : y + 5, x : x + 4] for y, x in itertools.product(range(5), range(5))}
            [made] = [
                (place, turned)
                for (place, crop), turned in itertools.product(crops.items(), [False, True])
                if torch.equal(crop.flip(2) if turned else crop, image)
            ] or [None]
            assert made is not None
            seen.add(made)
    assert len(seen) > 25
    assert {turned for _, turned in seen} == {True, False}


def test_an_epoch_has_each_image_once_in_an_order_of_the_seed() -> None:
    def orders(seed: int) -> list[list[int]]:
        loader = OnDevice(pictures(), Augmentation(), 16, seed, CPU)
        return [[int(label) for _, labels in loader for label in labels] for _ in range(2)]

    first, second = orders(0)
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert orders(0) == [first, second]
    assert orders(1) != [first, second]


@pytest.mark.parametrize(("count", "batches"), [(40, [16, 16, 8]), (33, [16, 16]), (1, [1]), (16, [16])])
def test_batches(count: int, batches: list[int]) -> None:
    loader = OnDevice(pictures(count), Augmentation(), 16, 0, CPU)
    assert [len(labels) for _, labels in loader] == batches
    assert len(loader) == len(batches)


@pytest.mark.parametrize("count", [40, 41])
def test_processes_get_equally_many_of_their_own(count: int) -> None:
    parts = []
    for rank in range(3):
        loader = OnDevice(pictures(count), Augmentation(), 50, 0, CPU, (rank, 3))
        parts.append([int(label) for _, labels in loader for label in labels])
    assert {len(part) for part in parts} == {14}
    assert set().union(*parts) == set(range(count))


def test_a_search_on_it_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    def loader() -> OnDevice:
        return OnDevice(tiny_data(), Augmentation(pad=1, flip=True), 32, 7, CPU)

    def search(**settings: object) -> conet_fx.SearchResult:
        return conet_fx.optimize(TinyNet(), loader(), progress=False, **{**QUICK, **settings})

    whole = search()
    search(run_dir=tmp_path, trials=1)
    resumed = search(run_dir=tmp_path, resume=True)
    assert [trial.groups for trial in resumed.history] == [trial.groups for trial in whole.history]


def test_by_name(tmp_path: Path) -> None:
    digits = load("digits")
    kept, _ = loaders(digits, 64, 0, device=CPU)
    usual, _ = loaders(digits, 64, 0)
    assert isinstance(kept, OnDevice)
    assert len(kept) == len(usual)
    assert torch.equal(kept.images, digits.train.tensors[0])  # type: ignore[attr-defined]

    write_tree(tmp_path / "small", "val", (16, 16))
    small = load("folder:small", root=tmp_path)
    kept, _ = loaders(small, 2, 0, device=CPU)
    assert isinstance(kept, OnDevice)
    assert kept.augmentation.pad == 2
    images, _ = next(iter(kept))
    assert images.shape == (2, 3, 16, 16)
    black = v2.functional.normalize(torch.zeros(3, 1, 1), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).flatten()
    assert kept.augmentation.fill == pytest.approx(black.tolist())

    large = load("folder:small", root=tmp_path, image_size=80)
    with pytest.raises(ValueError, match="folder:small cannot be kept on the device"):
        loaders(large, 2, 0, device=CPU)
