"""Every data set by name: what is handed out, and what is said when the files are not there."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import cifar as torchvision_cifar

from conet_fx.data import DataSet, load, loaders


def images_and_targets(dataset: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([x for x, _ in dataset]), torch.tensor([int(y) for _, y in dataset])


def write_images(folder: Path, size: tuple[int, int], count: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(str(folder)))
    for number in range(count):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def write_tree(root: Path, held_out: str, size: tuple[int, int] = (40, 32)) -> Path:
    for split, count in (("train", 3), (held_out, 2)):
        for name in ("cat", "dog"):
            write_images(root / split / name, size, count)
    return root


def write_cifar(root: Path, name: str, rows: int = 4) -> None:
    """Random pictures in the file layout of CIFAR-10 or CIFAR-100."""
    coarse = name == "cifar10"
    folder = root / ("cifar-10-batches-py" if coarse else "cifar-100-python")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    files = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"] if coarse else ["train", "test"]
    for file in files:
        batch = {
            "data": rng.integers(0, 256, (rows, 3072), dtype=np.uint8),
            "labels" if coarse else "fine_labels": list(range(rows)),
        }
        (folder / file).write_bytes(pickle.dumps(batch))
    classes = {"label_names" if coarse else "fine_label_names": [str(n) for n in range(10 if coarse else 100)]}
    (folder / ("batches.meta" if coarse else "meta")).write_bytes(pickle.dumps(classes))


@pytest.fixture
def no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision take files that are not the published ones."""

    def exists(path: str, md5: str | None = None) -> bool:
        return Path(path).is_file()

    monkeypatch.setattr(torchvision_cifar, "check_integrity", exists)


class TestDigits:
    def test_sizes(self) -> None:
        data = load("digits")
        assert (data.name, data.classes, data.shape) == ("digits", 10, (1, 32, 32))
        train, train_targets = images_and_targets(data.train)
        test, test_targets = images_and_targets(data.test)
        assert (len(train), len(test)) == (1437, 360)
        assert train.shape[1:] == test.shape[1:] == (1, 32, 32)
        assert train.dtype == torch.float32
        assert torch.cat([train_targets, test_targets]).bincount().tolist() == [
            178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
        ]  # fmt: skip
        assert set(test_targets.bincount().tolist()) <= {35, 36, 37}, "each class has its share"

    def test_native_size_is_the_original_up_to_normalisation(self) -> None:
        data = load("digits", image_size=8)
        both = torch.cat([images_and_targets(data.train)[0], images_and_targets(data.test)[0]])
        original = torch.as_tensor(load_digits().images, dtype=torch.float32).flatten(1)
        pixels = (both.flatten(1) - both.min()) * 16 / (both.max() - both.min())
        torch.testing.assert_close(pixels.sort(dim=0).values, original.sort(dim=0).values, atol=1e-4, rtol=0)

    def test_normalised_by_the_training_split_alone(self) -> None:
        data = load("digits")
        train, _ = images_and_targets(data.train)
        test, _ = images_and_targets(data.test)
        assert train.mean().item() == pytest.approx(0, abs=1e-5)
        assert train.std().item() == pytest.approx(1, abs=1e-5)
        assert abs(test.mean().item()) > 1e-4

    def test_split_repeats_and_leaves_the_global_random_state_alone(self) -> None:
        torch.manual_seed(1)
        np.random.seed(1)
        expected = torch.rand(1), np.random.rand()
        torch.manual_seed(1)
        np.random.seed(1)
        first, second = load("digits", image_size=8), load("digits", image_size=8)
        assert (torch.rand(1), np.random.rand()) == expected
        assert torch.equal(images_and_targets(first.test)[0], images_and_targets(second.test)[0])


class TestCifar:
    @pytest.mark.usefixtures("no_checksums")
    @pytest.mark.parametrize(("name", "classes", "images"), [("cifar10", 10, 20), ("cifar100", 100, 4)])
    def test_reads_the_published_layout(self, tmp_path: Path, name: str, classes: int, images: int) -> None:
        write_cifar(tmp_path, name)
        data = load(name, root=tmp_path)
        assert (data.classes, data.shape) == (classes, (3, 32, 32))
        train, _ = images_and_targets(data.train)
        assert train.shape == (images, 3, 32, 32)
        again, _ = images_and_targets(data.train)
        assert not torch.equal(train, again), "training images are augmented"
        test, targets = images_and_targets(data.test)
        assert torch.equal(test, images_and_targets(data.test)[0]), "test images are not"
        assert targets.tolist() == [0, 1, 2, 3]

    @pytest.mark.usefixtures("no_checksums")
    def test_another_size(self, tmp_path: Path) -> None:
        write_cifar(tmp_path, "cifar10")
        data = load("cifar10", root=tmp_path, image_size=16)
        assert data.shape == images_and_targets(data.train)[0].shape[1:] == (3, 16, 16)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no cifar10 in .*cifar-10-batches-py.*--root.*--download"):
            load("cifar10", root=tmp_path)
        assert not list(tmp_path.iterdir()), "nothing was downloaded"

    def test_no_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: object, **options: object) -> None:
            raise URLError("no route to host")

        monkeypatch.setattr(torchvision_cifar, "download_and_extract_archive", fail)
        with pytest.raises(FileNotFoundError, match=r"could not fetch cifar10.*no route.*cifar-10-python.tar.gz"):
            load("cifar10", root=tmp_path, download=True)

    def test_damaged(self, tmp_path: Path) -> None:
        write_cifar(tmp_path, "cifar100")
        with pytest.raises(FileNotFoundError, match=r"cifar-100-python is incomplete or damaged.*--download"):
            load("cifar100", root=tmp_path)


class TestFolder:
    @pytest.mark.parametrize("held_out", ["test", "val"])
    def test_takes_the_size_of_the_first_image(self, tmp_path: Path, held_out: str) -> None:
        write_tree(tmp_path, held_out)
        data = load(f"folder:{tmp_path}")
        assert (data.classes, data.shape) == (2, (3, 32, 32))
        train, targets = images_and_targets(data.train)
        assert train.shape == (6, 3, 32, 32)
        assert targets.tolist() == [0, 0, 0, 1, 1, 1]
        assert images_and_targets(data.test)[0].shape == (4, 3, 32, 32)

    def test_large_images_get_the_imagenet_recipe(self, tmp_path: Path) -> None:
        write_tree(tmp_path, "val", size=(120, 100))
        data = load(f"folder:{tmp_path}", image_size=96)
        assert images_and_targets(data.train)[0].shape == (6, 3, 96, 96)
        assert images_and_targets(data.test)[0].shape == (4, 3, 96, 96)

    def test_relative_to_the_root(self, tmp_path: Path) -> None:
        write_tree(tmp_path / "pets", "val")
        assert load("folder:pets", root=tmp_path).classes == 2

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no image folders in .*pets.*train/.*test/ or val/"):
            load("folder:pets", root=tmp_path)

    def test_splits_must_agree(self, tmp_path: Path) -> None:
        write_tree(tmp_path, "test")
        write_images(tmp_path / "train" / "ant", (8, 8), 1)
        with pytest.raises(ValueError, match=r"the same classes.*\['ant'\]"):
            load(f"folder:{tmp_path}")


class TestImageNet:
    def test_reads_the_layout_of_torchvision(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            for name in ("n01440764", "n01443537"):
                write_images(tmp_path / split / name, (60, 50), 2)
        classes = {"n01440764": ("tench",), "n01443537": ("goldfish",)}
        torch.save((classes, []), tmp_path / "meta.bin")
        data = load("imagenet", root=tmp_path)
        assert (data.classes, data.shape) == (2, (3, 224, 224))
        for split in (data.train, data.test):
            assert images_and_targets(split)[0].shape == (4, 3, 224, 224)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no imagenet in .*devkit.*--root DIR.*folder:"):
            load("imagenet", root=tmp_path)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"unknown data set 'cifar', did you mean 'cifar10'.*digits"):
        load("cifar")


def test_bad_image_size() -> None:
    with pytest.raises(ValueError, match="image_size"):
        load("digits", image_size=0)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", image_size=8)


class TestLoaders:
    def test_the_seed_fixes_every_epoch(self, digits: DataSet) -> None:
        def epochs(seed: int) -> list[torch.Tensor]:
            train, _ = loaders(digits, 128, seed)
            torch.rand(3)  # what else draws random numbers does not matter
            return [torch.cat([y for _, y in train]) for _ in range(2)]

        first, second = epochs(7), epochs(7)
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert not torch.equal(first[0], first[1])
        assert not torch.equal(first[0], epochs(8)[0])

    def test_the_global_random_state_stays(self, digits: DataSet) -> None:
        before = torch.get_rng_state()
        for loader in loaders(digits, 512, seed=0):
            for _ in loader:
                pass
        assert torch.equal(torch.get_rng_state(), before)

    def test_test_images_keep_their_order(self, digits: DataSet) -> None:
        _, test = loaders(digits, 100, seed=0)
        assert torch.equal(torch.cat([y for _, y in test]), images_and_targets(digits.test)[1])

    @pytest.mark.parametrize(("batch_size", "images"), [(128, 1437), (4, 1436), (1, 1437)])
    def test_no_training_batch_of_one(self, digits: DataSet, batch_size: int, images: int) -> None:
        train, _ = loaders(digits, batch_size, seed=0)
        assert sum(len(x) for x, _ in train) == images

    def test_workers_augment_repeatably(self, tmp_path: Path) -> None:
        data = load(f"folder:{write_tree(tmp_path, 'test')}")

        def epoch() -> torch.Tensor:
            train, _ = loaders(data, 4, seed=3, workers=1)
            return torch.cat([x for x, _ in train])

        assert torch.equal(epoch(), epoch())
