"""The networks of torchvision, timm and libraries that build on torch, as small as each can be called, with random
weights.

:func:`entries` lists them, :func:`build` makes one with example inputs. Sizes are the smallest that a network runs at,
but not below 64 pixels, so that few maps shrink to one point and hide mistakes in the order of
channels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.libraries import IN_BOTH_MODES, IN_TRAIN_MODE, LIBRARIES, PACKAGES

CLASSES = 10
BATCH = 2  # batch norm over one point needs two samples

# torchvision: what differs from images of 64 x 64 pixels
TORCHVISION_SIZES = {"inception_v3": 96, "quantized_inception_v3": 96, "maxvit_t": 224, "vit_h_14": 28}
VIDEO_SHAPES = {"s3d": (1, 16, 224, 224)}  # it ends in a pooling of 2 x 7 x 7
# these once more in train mode, with auxiliary heads (and detectors, with losses, and RAFT)
TRAIN_MODE = {"googlenet": 64, "inception_v3": 299}
RAFT_UPDATES = 2
# torchvision's detectors resize their inputs
DETECTION_SIZE = 128
# few proposals, each of which costs a pass through the heads
FEW_PROPOSALS = {
    "rpn_post_nms_top_n_train": 16,
    "rpn_post_nms_top_n_test": 16,
    "box_batch_size_per_image": 16,
    "box_detections_per_img": 8,
}

# timm: one architecture a family, its smallest member
TIMM = """
bat_resnext26ts beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_lite_tiny coat_tiny
coatnet_pico_rw_224 convformer_s18 convit_tiny convmixer_768_32 convnext_atto convnext_zepto_rms convnextv2_atto
cpubone_nano crossvit_9_240 cs3darknet_s csatv2 cspdarknet53 cspnext_tiny cspresnet50 cspresnext50 darknet17
davit_tiny deit_tiny_distilled_patch16_224 densenet121 dla34 dla60_res2net dm_nfnet_f0 dpn68 eca_nfnet_l0
eca_vovnet39b ecaresnet26t edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0
efficientnet_cc_b0_4e efficientnet_lite0 efficientnetv2_rw_t efficientvim_m1 efficientvit_b0 efficientvit_m0
ese_vovnet19b_slim_dw fasternet_t0 fastvit_t8 fbnetc_100 fbnetv3_b focalnet_tiny_srf gcresnet33ts gcvit_xxtiny
gernet_s ghostnet_050 ghostnetv2_100 ghostnetv3_050 gmlp_ti16_224 halonet26t hardcorenas_a hgnet_tiny hgnetv2_b0
hiera_tiny_224 hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4
lambda_resnet26t lcnet_035 lcnetv2_small legacy_senet154 legacy_seresnet18 legacy_xception levit_128s levit_conv_128s
lowformer_b0 mambaout_femto maxvit_pico_rw_256 maxxvit_rmlp_nano_rw_256 mixer_s32_224 mixnet_s mnasnet_050
mobilenetv1_100 mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small_035 mobilenetv4_hybrid_medium_075
mobilenetv5_base mobileone_s0 mobilevit_xxs mobilevitv2_050 mvitv2_tiny nasnetalarge nest_tiny nextvit_small
nf_regnet_b0 nf_resnet26 nfnet_l0 pit_ti_224 pnasnet5large poolformer_s12 poolformerv2_s12 pvt_v2_b0 rdnet_tiny
regnetv_040 regnetx_002 regnety_002 regnetz_005 regnetz_b16 repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s
resmlp_12_224 resnest14d resnet18 resnet33ts resnetblur18 resnetrs50 resnetv2_18 resnetv2_50d_gn resnetv2_50x1_bit
resnext50_32x4d rexnet_100 selecsls42 semnasnet_050 sequencer2d_s seresnet18 shvit_s1 skresnet18 spnasnet_100
starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 tf_efficientnet_b0
tf_efficientnetv2_b0 tiny_vit_5m_224 tinynet_e tnt_s_patch16_224 tresnet_m twins_pcpvt_small twins_svt_small vgg11_bn
visformer_tiny vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 vovnet39a xception41
xcit_nano_12_p16_224
"""
TIMM_SIZES = {
    96: "inception_v3 inception_v4 inception_resnet_v2",
    224: "efficientformer_l1",
    256: "bat_resnext26ts halonet26t",
}
# built for one size of image, which is an option of theirs
TAKES_IMAGE_SIZE = """
bat_resnext26ts beit_base_patch16_224 botnet26t_256 cait_xxs24_224 coat_lite_tiny coat_tiny coatnet_pico_rw_224
convit_tiny deit_tiny_distilled_patch16_224 efficientformer_l1 efficientformerv2_s0 efficientvit_m0 gcresnet33ts
gcvit_xxtiny gernet_s gmlp_ti16_224 halonet26t hiera_tiny_224 lambda_resnet26t levit_128s levit_conv_128s
maxvit_pico_rw_256 maxxvit_rmlp_nano_rw_256 mixer_s32_224 mobileone_s0 mobilevit_xxs mobilevitv2_050 mvitv2_tiny
nest_tiny pit_ti_224 regnetz_b16 repvgg_a0 repvit_m0_9 resmlp_12_224 resnet33ts sequencer2d_s swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 tnt_s_patch16_224 twins_pcpvt_small
twins_svt_small visformer_tiny vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224
xcit_nano_12_p16_224
"""


@dataclasses.dataclass(frozen=True)
class Model:
    """A network and a call of it. ``inputs`` is in any form that ``analyze`` takes."""

    module: nn.Module
    inputs: Any


def entries(zoo: str) -> list[str]:
    """Names such as ``torchvision/resnet18`` of one zoo, or of ``all``."""
    return [name for each in ([zoo] if zoo != "all" else ZOOS) for name in ZOOS[each]()]


def build(entry: str) -> Model:
    """The network of an entry, seeded, in eval mode (``:train`` behind the name: in train mode)."""
    zoo, _, name = entry.partition("/")
    name, _, mode = name.partition(":")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the zoos warn about their own initialisation
        make = {"torchvision": _build_torchvision, "timm": _build_timm}.get(zoo)
        model = make(name, mode == "train") if make else Model(*LIBRARIES[zoo][name]())
    model.module.train(mode == "train")
    return model


def _torchvision() -> list[str]:
    import torchvision

    names: list[str] = torchvision.models.list_models()
    twice = [f"{name}:train" for name in names if name in TRAIN_MODE or _kind(name) in ("detection", "optical_flow")]
    return [f"torchvision/{name}" for name in sorted(names + twice)]


def _kind(name: str) -> str:
    """The part of torchvision.models that a name is from: ``""`` for classification."""
    import torchvision

    part = torchvision.models.get_model_builder(name).__module__.split(".")[2]
    return part if part in ("detection", "segmentation", "video", "quantization", "optical_flow") else ""


def _build_torchvision(name: str, train: bool) -> Model:
    import torchvision

    make: Callable[..., nn.Module] = torchvision.models.get_model_builder(name)
    kind = _kind(name)
    if kind == "optical_flow":
        pair = [torch.randn(BATCH, 3, 128, 128) for _ in range(2)]
        return Model(make(weights=None), {"image1": pair[0], "image2": pair[1], "num_flow_updates": RAFT_UPDATES})
    if kind == "detection":
        return _detector(make, name, train)
    if kind == "segmentation":
        return Model(make(weights=None, weights_backbone=None, num_classes=CLASSES), torch.randn(BATCH, 3, 64, 64))
    if kind == "video":
        batch, frames, *size = VIDEO_SHAPES.get(name, (BATCH, 4, 64, 64))
        with _mvit_of(tuple(size), frames):
            return Model(make(weights=None, num_classes=CLASSES), torch.randn(batch, 3, frames, *size))
    options: dict[str, Any] = {"quantize": False} if kind == "quantization" else {}
    size = TORCHVISION_SIZES.get(name, 64)
    if train:
        size, options["aux_logits"] = TRAIN_MODE[name], True
    elif name.removeprefix("quantized_") in TRAIN_MODE:
        options["aux_logits"] = False
    if name.removeprefix("quantized_") in TRAIN_MODE:
        options["init_weights"] = False
    if name.startswith("vit_"):
        options["image_size"] = size
    return Model(make(weights=None, num_classes=CLASSES, **options), torch.randn(BATCH, 3, size, size))


@contextlib.contextmanager
def _mvit_of(size: tuple[int, ...], frames: int) -> Iterator[None]:
    """Let torchvision's MViT be built for other inputs than 16 x 224 x 224: its builders have no option for that."""
    from torchvision.models.video import mvit

    original = mvit._mvit
    mvit._mvit = lambda *args, **options: original(*args, **{**options, "spatial_size": size, "temporal_size": frames})
    try:
        yield
    finally:
        mvit._mvit = original


def _detector(make: Callable[..., nn.Module], name: str, train: bool) -> Model:
    options: dict[str, Any] = {} if name.startswith("ssd") else {"min_size": DETECTION_SIZE, "max_size": DETECTION_SIZE}
    if "rcnn" in name:
        options |= FEW_PROPOSALS
    model = make(weights=None, weights_backbone=None, num_classes=CLASSES, **options)
    size = DETECTION_SIZE
    images = [torch.rand(3, size, size) for _ in range(BATCH if train else 1)]
    if not train:
        return Model(model, (images,))
    target = {"boxes": torch.tensor([[10.0, 20.0, 90.0, 100.0]]), "labels": torch.tensor([1])}
    if name.startswith("maskrcnn"):
        target["masks"] = torch.zeros(1, size, size, dtype=torch.uint8)
        target["masks"][:, 20:100, 10:90] = 1
    if name.startswith("keypointrcnn"):
        target["keypoints"] = torch.tensor([[[20.0, 30.0, 1.0]] * 17])
    return Model(model, (images, [{key: value.clone() for key, value in target.items()} for _ in images]))


def _timm() -> list[str]:
    return [f"timm/{name}" for name in TIMM.split()]


def _build_timm(name: str, train: bool) -> Model:
    import timm

    size = next((size for size, names in TIMM_SIZES.items() if name in names.split()), 64)
    options = {"img_size": size} if name in TAKES_IMAGE_SIZE.split() else {}
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)
    return Model(model, torch.randn(BATCH, 3, size, size))


def _libraries() -> list[str]:
    names = [f"{library}/{name}" for library, networks in LIBRARIES.items() for name in networks]
    own = [name + (":train" if name in IN_TRAIN_MODE else "") for name in names]
    return own + [f"{name}:train" for name in names if name in IN_BOTH_MODES]


def package_of(entry: str) -> str:
    """The module that must be installed for a network."""
    library = entry.partition("/")[0]
    return PACKAGES.get(library, library)


ZOOS = {"torchvision": _torchvision, "timm": _timm, "libraries": _libraries}
