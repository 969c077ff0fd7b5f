"""How large the experiments are: seconds in a test, minutes on two cores, hours on a GPU, or as the paper has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Preset:
    """The size of all experiments.

    Args:
        archs: networks of the delta sweep, names of ``conet_fx.models.build``.
        static: networks that are scaled statically.
        deltas: slope thresholds of the sweep, ranks an epoch.
        image_size: side of the images, pixels.
        train_images: at most so many images to train on, or None for all; as many of each class as the data allow.
        test_images: the same of the images to test on.
        batch_size: samples in a batch.
        trials, epochs_per_trial: of a search.
        initial_channels, min_channels: where searches start, and what they do not go below.
        final_epochs, seeds: of the trainings to the end.
        ablation_epochs, ablation_phis: epochs a trial, and first scale factors, that are compared.
        widths: of the networks whose rank growth is drawn.
        scales: s of static scaling.
        sample: networks of random widths for the correlation of rank and accuracy.
        transfers: pairs of networks: one is searched on small images, the other gets its sizes and is trained on
            large ones.
        transfer_deltas: of these searches.
        static_width: the baselines of static scaling have so much of their own widths.
        final_lr: first learning rate of trainings to the end.
        channels_last: lay out images and weights so; the recipe is the same.
        recipes: "cifar" or "imagenet": searches and trainings to the end are those of ``conet_fx.recipes``, DARTS with
            its auxiliary head; or "" for plain ones.
    """

    archs: tuple[str, ...]
    static: tuple[str, ...]
    deltas: tuple[float, ...]
    image_size: int
    train_images: int | None
    test_images: int | None
    batch_size: int
    trials: int
    epochs_per_trial: int
    final_epochs: int
    seeds: tuple[int, ...]
    ablation_epochs: tuple[int, ...]
    ablation_phis: tuple[float, ...]
    widths: tuple[int, ...]
    scales: tuple[float, ...]
    sample: int
    transfers: tuple[tuple[str, str], ...]
    transfer_deltas: tuple[float, ...]
    initial_channels: int = 32
    min_channels: int = 16
    static_width: float = 1.0
    final_lr: float = 0.1
    channels_last: bool = True
    recipes: Literal["", "cifar", "imagenet"] = ""

    @staticmethod
    def lr_of(arch: str) -> float:
        """First learning rate of searches (A.2)."""
        return 0.1 if "darts" in arch else 0.03


# the networks of Fig. 4
STATIC = ("vgg16_bn_cifar", "resnet34_cifar", "senet18_cifar", "mobilenet_v2_cifar", "shufflenet_v2_cifar")
PAPER_DELTAS = (0.0025, 0.005, 0.0075, 0.01, 0.015)

PRESETS: Mapping[str, Preset] = {
    "smoke": Preset(
        archs=("tests.tiny:TinyNet",),
        static=("tests.tiny:TinyNet",),
        deltas=(0.001, 0.05),
        image_size=8,
        train_images=64,
        test_images=64,
        batch_size=32,
        trials=2,
        epochs_per_trial=2,
        final_epochs=1,
        seeds=(0, 1),
        ablation_epochs=(2, 3),
        ablation_phis=(0.2, 0.4),
        widths=(16, 32),
        scales=(0.2, 0.8),
        sample=3,
        transfers=(("tests.tiny:TinyNet", "tests.tiny:TinyNet"),),
        transfer_deltas=(0.001,),
    ),
    "cpu": Preset(
        archs=("resnet18_cifar", "benchmarks.paper.small:darts4"),
        static=STATIC[1:],  # VGG halves its images five times: it needs 32 x 32
        deltas=(0.005, 0.01, 0.02, 0.03),
        image_size=16,
        train_images=5000,
        test_images=2000,
        batch_size=32,
        trials=6,
        epochs_per_trial=4,
        final_epochs=10,
        seeds=(0, 1, 2),
        ablation_epochs=(2, 4, 8),
        ablation_phis=(0.1, 0.2, 0.4),
        widths=(8, 16, 32, 64),
        scales=(0.2, 0.6),
        sample=8,
        transfers=(("benchmarks.paper.small:darts4", "benchmarks.paper.small:darts4"),),
        transfer_deltas=(0.005,),
        initial_channels=16,
        min_channels=8,
        static_width=0.25,
        final_lr=0.05,
    ),
    "gpu": Preset(
        archs=("resnet34_cifar", "darts7"),
        static=STATIC,
        deltas=PAPER_DELTAS,
        image_size=32,
        train_images=None,
        test_images=None,
        batch_size=128,
        trials=10,
        epochs_per_trial=10,
        final_epochs=40,
        seeds=(0, 1, 2),
        ablation_epochs=(5, 10, 20),
        ablation_phis=(0.1, 0.2, 0.4),
        widths=(16, 32, 64, 128, 256),
        scales=(0.2, 0.4, 0.6, 0.8),
        sample=16,
        transfers=(("darts14", "darts14_imagenet"),),
        transfer_deltas=(0.0005, 0.0075),
    ),
    "full": Preset(
        archs=("resnet34_cifar", "darts7"),
        static=STATIC,
        deltas=PAPER_DELTAS,
        image_size=32,
        train_images=None,
        test_images=None,
        batch_size=128,
        trials=25,
        epochs_per_trial=20,
        final_epochs=250,
        seeds=(0, 1, 2),
        ablation_epochs=(5, 10, 20, 40),
        ablation_phis=(0.1, 0.2, 0.4),
        widths=(16, 32, 64, 128, 256),
        scales=(0.2, 0.4, 0.6, 0.8),
        sample=32,
        transfers=(("darts14", "darts14_imagenet"),),
        transfer_deltas=(0.0005, 0.0075),
        recipes="cifar",
    ),
}
