"""Networks of libraries that build on torch, each as small as it can be called: names as ``monai/UNet``.

They are written by other hands than torchvision's and timm's: volumes and sequences, dictionaries and data classes as
results, several inputs, layers made inside ``forward``, checks that ask what a tensor is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Made = tuple[nn.Module, Any]
CLASSES = 10


def image(size: int = 64, channels: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, size, size)


def volume(size: int = 32, channels: int = 1, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, size)


# --- segmentation_models_pytorch --------------------------------------------------------------------------------


def _smp(name: str, encoder: str = "resnet18", **options: Any) -> Made:
    import segmentation_models_pytorch as smp

    return getattr(smp, name)(encoder, encoder_weights=None, classes=CLASSES, **options), image()


SMP = {
    "Unet": lambda: _smp("Unet"),
    "Unet-scse": lambda: _smp("Unet", decoder_attention_type="scse"),
    "Unet-aux": lambda: _smp("Unet", aux_params={"classes": 4, "dropout": 0.1}),
    "Unet-mobilenet": lambda: _smp("Unet", "mobilenet_v2"),
    "Unet-densenet": lambda: _smp("Unet", "densenet121"),
    "Unet-mit": lambda: _smp("Unet", "mit_b0"),
    "Unet-dpn": lambda: _smp("Unet", "dpn68"),
    "Unet-timm": lambda: _smp("Unet", "tu-regnety_002"),
    "UnetPlusPlus": lambda: _smp("UnetPlusPlus"),
    "MAnet": lambda: _smp("MAnet"),
    "Linknet": lambda: _smp("Linknet"),
    "FPN": lambda: _smp("FPN"),
    "PSPNet": lambda: _smp("PSPNet"),
    "PAN": lambda: (_smp("PAN")[0], image(128)),
    "DeepLabV3": lambda: _smp("DeepLabV3"),
    "DeepLabV3Plus": lambda: _smp("DeepLabV3Plus"),
    "UPerNet": lambda: _smp("UPerNet"),
    "Segformer": lambda: _smp("Segformer", "mit_b0"),
    "DPT": lambda: (_smp("DPT", "tu-vit_tiny_patch16_224", dynamic_img_size=False)[0], image(224, batch=1)),
}

# --- monai ---------------------------------------------------------------------------------------------------------


def _monai(name: str, *inputs: torch.Tensor, **options: Any) -> Made:
    import monai.networks.nets as nets

    return getattr(nets, name)(**options), inputs


MONAI = {
    "UNet": lambda: _monai(
        "UNet", volume(), spatial_dims=3, in_channels=1, out_channels=3, channels=(8, 16, 32), strides=(2, 2)
    ),
    "UNet-residual": lambda: _monai(
        "UNet",
        image(channels=1),
        spatial_dims=2,
        in_channels=1,
        out_channels=3,
        channels=(8, 16, 32),
        strides=(2, 2),
        num_res_units=2,
    ),
    "AttentionUnet": lambda: _monai(
        "AttentionUnet", volume(), spatial_dims=3, in_channels=1, out_channels=3, channels=(8, 16, 32), strides=(2, 2)
    ),
    "BasicUNet": lambda: _monai(
        "BasicUNet", volume(), spatial_dims=3, in_channels=1, out_channels=3, features=(8, 8, 16, 32, 64, 8)
    ),
    "BasicUNetPlusPlus": lambda: _monai(
        "BasicUNetPlusPlus", volume(), spatial_dims=3, in_channels=1, out_channels=3, features=(8, 8, 16, 32, 64, 8)
    ),
    "DynUNet": lambda: _monai(
        "DynUNet",
        volume(),
        spatial_dims=3,
        in_channels=1,
        out_channels=3,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[8, 16, 32],
        res_block=True,
    ),
    "DynUNet-deep": lambda: _monai(
        "DynUNet",
        volume(64),
        spatial_dims=3,
        in_channels=1,
        out_channels=3,
        kernel_size=[3, 3, 3, 3],
        strides=[1, 2, 2, 2],
        upsample_kernel_size=[2, 2, 2],
        filters=[8, 16, 32, 64],
        deep_supervision=True,
        deep_supr_num=1,
    ),
    "SegResNet": lambda: _monai("SegResNet", volume(), spatial_dims=3, init_filters=8, in_channels=1, out_channels=3),
    "SegResNetVAE": lambda: _monai(
        "SegResNetVAE", volume(), input_image_size=(32, 32, 32), spatial_dims=3, init_filters=8, in_channels=1
    ),
    "SegResNetDS": lambda: _monai(
        "SegResNetDS", volume(), spatial_dims=3, init_filters=8, in_channels=1, out_channels=3, dsdepth=2
    ),
    "VNet": lambda: _monai("VNet", volume(), spatial_dims=3, in_channels=1, out_channels=3),
    "HighResNet": lambda: _monai("HighResNet", volume(), spatial_dims=3, in_channels=1, out_channels=3),
    "UNETR": lambda: _monai(
        "UNETR",
        volume(),
        in_channels=1,
        out_channels=3,
        img_size=(32, 32, 32),
        feature_size=8,
        hidden_size=48,
        mlp_dim=96,
        num_heads=4,
    ),
    "SwinUNETR": lambda: _monai("SwinUNETR", volume(64, batch=1), in_channels=1, out_channels=3, feature_size=12),
    "MedNeXt": lambda: _monai("MedNeXt", volume(), spatial_dims=3, init_filters=8, in_channels=1, out_channels=3),
    "FlexibleUNet": lambda: _monai(
        "FlexibleUNet", image(), in_channels=3, out_channels=3, backbone="efficientnet-b0", pretrained=False
    ),
    "RegUNet": lambda: _monai(
        "RegUNet", volume(), spatial_dims=3, in_channels=1, num_channel_initial=8, depth=2, out_channels=3
    ),
    "VoxelMorph": lambda: _monai("VoxelMorph", volume(), volume(), spatial_dims=3),
    "Quicknat": lambda: _monai("Quicknat", image(channels=1), num_channels=1, num_filters=16),
    "DenseNet121": lambda: _monai("DenseNet121", volume(), spatial_dims=3, in_channels=1, out_channels=CLASSES),
    "EfficientNetBN": lambda: _monai(
        "EfficientNetBN", image(), model_name="efficientnet-b0", pretrained=False, num_classes=CLASSES
    ),
    "SEResNet50": lambda: _monai("SEResNet50", image(), spatial_dims=2, in_channels=3, num_classes=CLASSES),
    "ResNet": lambda: _monai(
        "ResNet",
        volume(),
        block="basic",
        layers=(1, 1, 1, 1),
        block_inplanes=(8, 16, 32, 64),
        spatial_dims=3,
        n_input_channels=1,
        num_classes=CLASSES,
    ),
    "HoVerNet": lambda: _monai("HoVerNet", image(256, batch=1), out_classes=5),
    "AHNet": lambda: _monai(
        "AHNet", volume(64, batch=1), layers=(1, 1, 1, 1), spatial_dims=3, out_channels=3, psp_block_num=0
    ),
    "ViT": lambda: _monai(
        "ViT",
        volume(),
        in_channels=1,
        img_size=(32, 32, 32),
        patch_size=(8, 8, 8),
        hidden_size=48,
        mlp_dim=96,
        num_layers=3,
        num_heads=4,
        classification=True,
    ),
    "VarAutoEncoder": lambda: _monai(
        "VarAutoEncoder",
        image(32, 1),
        spatial_dims=2,
        in_shape=(1, 32, 32),
        out_channels=1,
        latent_size=8,
        channels=(8, 16),
        strides=(2, 2),
    ),
    "AutoencoderKL": lambda: _monai(
        "AutoencoderKL",
        volume(16),
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        num_res_blocks=(1, 1),
        channels=(8, 16),
        attention_levels=(False, True),
        latent_channels=4,
        norm_num_groups=4,
    ),
    "VQVAE": lambda: _monai(
        "VQVAE",
        volume(16),
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        channels=(8, 16),
        num_res_channels=(8, 16),
        num_res_layers=1,
        downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)),
        upsample_parameters=((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
        num_embeddings=16,
        embedding_dim=8,
    ),
    "DiffusionModelUNet": lambda: (
        _monai(
            "DiffusionModelUNet",
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            num_res_blocks=1,
            channels=(8, 16),
            attention_levels=(False, True),
            norm_num_groups=4,
            num_head_channels=8,
        )[0],
        {"x": image(32, 1), "timesteps": torch.tensor([3, 7])},
    ),
    "PatchDiscriminator": lambda: _monai(
        "PatchDiscriminator", image(), spatial_dims=2, channels=8, in_channels=3, num_layers_d=3
    ),
}

# --- transformers --------------------------------------------------------------------------------------------------


def _hf(name: str, inputs: Any = None, config: str | None = None, **options: Any) -> Made:
    import transformers

    make = getattr(transformers, name)
    settings = make.config_class if config is None else getattr(transformers, config)
    model = make(settings(**options))
    return model, {"pixel_values": image()} if inputs is None else inputs


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TRANSFORMERS = {
    "ResNet": lambda: _hf(
        "ResNetForImageClassification", embedding_size=16, hidden_sizes=[32, 48, 64, 80], depths=[1, 1, 2, 1]
    ),
    "ResNet-backbone": lambda: _hf(
        "ResNetBackbone",
        embedding_size=16,
        hidden_sizes=[32, 48, 64, 80],
        depths=[1, 1, 2, 1],
        out_features=["stage2", "stage4"],
    ),
    "RegNet": lambda: _hf(
        "RegNetForImageClassification",
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 2, 1],
        groups_width=8,
    ),
    "ConvNext": lambda: _hf("ConvNextForImageClassification", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "ConvNextV2": lambda: _hf("ConvNextV2ForImageClassification", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "MobileNetV1": lambda: _hf("MobileNetV1ForImageClassification"),
    "MobileNetV2": lambda: _hf("MobileNetV2ForSemanticSegmentation"),
    "MobileViT": lambda: _hf("MobileViTForSemanticSegmentation", image_size=64),
    "MobileViTV2": lambda: _hf("MobileViTV2ForImageClassification", image_size=64),
    "EfficientNet": lambda: _hf("EfficientNetForImageClassification"),
    "BiT": lambda: _hf(
        "BitForImageClassification", embedding_size=32, hidden_sizes=[128, 128, 256, 256], depths=[1, 1, 1, 1]
    ),
    "LeViT": lambda: _hf("LevitForImageClassification", image_size=64),
    "PoolFormer": lambda: _hf("PoolFormerForImageClassification", depths=[1, 1, 1, 1]),
    "CvT": lambda: _hf("CvtForImageClassification", depth=[1, 2, 3], embed_dim=[16, 32, 48], num_heads=[1, 2, 3]),
    "PVT": lambda: _hf("PvtForImageClassification", depths=[1, 1, 1, 1], image_size=64),
    "PVTv2": lambda: _hf("PvtV2ForImageClassification", depths=[1, 1, 1, 1], image_size=64),
    "Segformer": lambda: _hf("SegformerForSemanticSegmentation", depths=[1, 1, 1, 1]),
    "SwiftFormer": lambda: _hf("SwiftFormerForImageClassification", image_size=64),
    "FocalNet": lambda: _hf("FocalNetForImageClassification", image_size=64, embed_dim=32, depths=[1, 1, 1, 1]),
    "Swin": lambda: _hf(
        "SwinForImageClassification", {"pixel_values": image(224, batch=1)}, embed_dim=48, depths=[1, 1, 2, 1]
    ),
    "Swinv2": lambda: _hf(
        "Swinv2ForImageClassification", image_size=64, window_size=4, embed_dim=48, depths=[1, 1, 2, 1]
    ),
    "ViT": lambda: _hf("ViTForImageClassification", image_size=64, **SMALL),
    "DeiT": lambda: _hf("DeiTForImageClassificationWithTeacher", image_size=64, **SMALL),
    "BEiT": lambda: _hf("BeitForImageClassification", image_size=64, **SMALL),
    "Dinov2": lambda: _hf("Dinov2ForImageClassification", image_size=56, patch_size=14, **SMALL),
    "CLIP-vision": lambda: _hf("CLIPVisionModel", image_size=64, **SMALL),
    "SigLIP-vision": lambda: _hf("SiglipVisionModel", image_size=64, **SMALL),
    "YOLOS": lambda: _hf("YolosForObjectDetection", image_size=[64, 64], **SMALL),
    "GLPN": lambda: _hf("GLPNForDepthEstimation", depths=[1, 1, 1, 1]),
    "DPT": lambda: _hf(
        "DPTForDepthEstimation",
        image_size=64,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 32, 48, 64],
        fusion_hidden_size=32,
    ),
    "Swin2SR": lambda: _hf(
        "Swin2SRForImageSuperResolution", image_size=32, embed_dim=24, depths=[2, 2], num_heads=[2, 2], window_size=4
    ),
    "UperNet": lambda: _upernet(),
    "DETR": lambda: _detr("DetrForObjectDetection"),
    "RT-DETR": lambda: _detr("RTDetrForObjectDetection"),
    "HGNetV2": lambda: _hf("HGNetV2ForImageClassification"),
    "TextNet": lambda: _hf("TextNetForImageClassification"),
    "SuperPoint": lambda: _hf("SuperPointForKeypointDetection"),
    "TimeSformer": lambda: _hf(
        "TimesformerForVideoClassification",
        {"pixel_values": torch.randn(2, 2, 3, 64, 64)},
        image_size=64,
        num_frames=2,
        **SMALL,
    ),
    "Wav2Vec2": lambda: _hf(
        "Wav2Vec2ForCTC",
        {"input_values": torch.randn(2, 4000)},
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        **SMALL,
    ),
    "Whisper-encoder": lambda: _whisper(),
}


def _upernet() -> Made:
    import transformers

    backbone = transformers.ConvNextConfig(
        hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=32, auxiliary_in_channels=48, num_labels=CLASSES
    )
    return transformers.UperNetForSemanticSegmentation(config), {"pixel_values": image()}


def _detr(name: str) -> Made:
    import transformers

    make = getattr(transformers, name)
    options: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 8}
    if name.startswith("RT"):
        backbone = transformers.RTDetrResNetConfig(
            embedding_size=16,
            hidden_sizes=[16, 32, 48, 64],
            depths=[1, 1, 1, 1],
            out_features=["stage2", "stage3", "stage4"],
        )
        options |= {"encoder_in_channels": [32, 48, 64], "encoder_hidden_dim": 32, "decoder_in_channels": [32, 32, 32]}
        options |= {"decoder_ffn_dim": 64, "encoder_ffn_dim": 64}
        options |= {"decoder_attention_heads": 2, "encoder_attention_heads": 2}
    else:
        backbone = transformers.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], out_features=["stage4"]
        )
        options |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        options |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = make.config_class(
        backbone_config=backbone, use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, **options
    )
    return make(config), {"pixel_values": image(128)}


def _whisper() -> Made:
    import transformers

    config = transformers.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_attention_heads=2,
        max_source_positions=50,
    )
    return transformers.WhisperModel(config).encoder, {"input_features": torch.randn(2, 80, 100)}


# --- diffusers -----------------------------------------------------------------------------------------------------


def _diffusers(name: str, inputs: Any, **options: Any) -> Made:
    import diffusers

    return getattr(diffusers, name)(**options), inputs


DIFFUSERS = {
    "UNet2D": lambda: _diffusers(
        "UNet2DModel",
        {"sample": image(32), "timestep": torch.tensor([3, 5])},
        sample_size=32,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    ),
    "UNet2DCondition": lambda: _diffusers(
        "UNet2DConditionModel",
        {"sample": image(32, 4), "timestep": torch.tensor([3, 5]), "encoder_hidden_states": torch.randn(2, 7, 24)},
        sample_size=32,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=24,
        layers_per_block=1,
    ),
    "AutoencoderKL": lambda: _diffusers(
        "AutoencoderKL",
        image(32),
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    ),
    "AutoencoderTiny": lambda: _diffusers(
        "AutoencoderTiny",
        image(64),
        encoder_block_out_channels=(16, 16, 16, 16),
        decoder_block_out_channels=(16, 16, 16, 16),
    ),
    "VQModel": lambda: _diffusers(
        "VQModel",
        image(32),
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    ),
    "AutoencoderDC": lambda: _diffusers(
        "AutoencoderDC",
        image(64),
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(16, 32),
        decoder_block_out_channels=(16, 32),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=1.0,
    ),
}

# --- torchaudio ----------------------------------------------------------------------------------------------------


def _audio(name: str, *inputs: torch.Tensor, **options: Any) -> Made:
    import torchaudio

    return getattr(torchaudio.models, name)(**options), inputs


TORCHAUDIO = {
    "ConvTasNet": lambda: _audio(
        "ConvTasNet",
        torch.randn(2, 1, 800),
        num_sources=2,
        enc_num_feats=16,
        msk_num_feats=8,
        msk_num_hidden_feats=24,
        msk_num_layers=2,
        msk_num_stacks=2,
    ),
    "Wav2Letter": lambda: _audio("Wav2Letter", torch.randn(2, 1, 4000), num_classes=CLASSES),
    "DeepSpeech": lambda: _audio("DeepSpeech", torch.randn(2, 1, 20, 40), n_feature=40, n_hidden=32, n_class=CLASSES),
    "Conformer": lambda: _audio(
        "Conformer",
        torch.randn(2, 30, 16),
        torch.tensor([30, 20]),
        input_dim=16,
        num_heads=2,
        ffn_dim=32,
        num_layers=2,
        depthwise_conv_kernel_size=5,
    ),
    "HDemucs": lambda: _audio("HDemucs", torch.randn(1, 2, 40000), sources=["a", "b"], channels=8),
    "WaveRNN": lambda: _audio(
        "WaveRNN",
        torch.randn(2, 1, (9 - 4) * 20),
        torch.randn(2, 1, 16, 9),
        upsample_scales=[2, 2, 5],
        n_classes=16,
        hop_length=20,
        n_res_block=2,
        n_rnn=16,
        n_fc=16,
        kernel_size=5,
        n_freq=16,
        n_hidden=16,
        n_output=16,
    ),
    "SquimObjective": lambda: _audio("squim_objective_base", torch.randn(2, 8000)),
    "Wav2Vec2": lambda: _audio("wav2vec2_base", torch.randn(2, 4000)),
}

# --- ultralytics ---------------------------------------------------------------------------------------------------


def _yolo(name: str, kind: str = "DetectionModel") -> Made:
    from ultralytics.nn import tasks

    return getattr(tasks, kind)(f"{name}.yaml", nc=CLASSES, verbose=False), image()


ULTRALYTICS = {
    **{
        name: (lambda name=name: _yolo(name))
        for name in ("yolov3-tiny", "yolov5n", "yolov6n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n")
    },
    "yolov8n-ghost": lambda: _yolo("yolov8n-ghost"),
    "yolov8n-seg": lambda: _yolo("yolov8n-seg", "SegmentationModel"),
    "yolov8n-pose": lambda: _yolo("yolov8n-pose", "PoseModel"),
    "yolov8n-obb": lambda: _yolo("yolov8n-obb", "OBBModel"),
    "yolov8n-cls": lambda: _yolo("yolov8n-cls", "ClassificationModel"),
}

# --- pytorchcv: the first network of each of its families of convolutional networks --------------------------------


def _pytorchcv(name: str) -> Made:
    from pytorchcv.model_provider import get_model

    dense = name.endswith(("_voc", "_cityscapes", "_celebamaskhq")) and not name.startswith("centernet")
    module = get_model(name, **({"in_size": (128, 128)} if dense else {}))
    size = module.in_size if isinstance(module.in_size, tuple) else (module.in_size, module.in_size)
    return module, torch.randn(1 if max(size) > 320 else 2, 3, *size)


_PYTORCHCV = (
    "alexnet zfnet vgg11 bninception resnet10 preresnet10 resnext14_16x4d seresnet10 sepreresnet10 seresnext50_32x4d "
    "senet16 resnestabc14 ibn_resnet50 ibnb_resnet50 ibn_resnext50_32x4d ibn_densenet121 airnet50_1x64d_r2 "
    "airnext50_32x4d_r2 bam_resnet18 cbam_resnet18 resattnet56 sknet50 scnet50 regnetx002 diaresnet10 diapreresnet10 "
    "pyramidnet101_a360 diracnet18v2 sharesnet18 densenet121 condensenet74_c4_g4 sparsenet121 peleenet wrn50_2 drnc26 "
    "dpn68 darknet_ref darknet53 channelnet revnet38 irevnet301 bagnet9 dla34 msdnet22 fishnet99 espnetv2_wd2 "
    "dicenet_wd5 hrnet_w18_small_v1 vovnet27s selecsls42 hardnet39ds xdensenet121_2 squeezenet_v1_0 sqnxt23_w1 "
    "shufflenet_g1_w1 shufflenetv2_wd2 shufflenetv2b_wd2 menet108_8x1_g3 mobilenet_w1 mobilenetb_w1 fdmobilenet_w1 "
    "mobilenetv2_w1 mobilenetv3_small_w7d20 igcv3_w1 ghostnet mnasnet_b1 darts proxylessnas_cpu fbnet_cb xception "
    "inceptionv3 inceptionv4 inceptionresnetv1 inceptionresnetv2 polynet nasnet_4a1056 pnasnet5large spnasnet "
    "efficientnet_b0 efficientnet_edge_small_b mixnet_s nin_cifar10 resnet20_cifar10 preresnet20_cifar10 "
    "resnext20_16x4d_cifar10 seresnet20_cifar10 sepreresnet20_cifar10 pyramidnet110_a48_cifar10 "
    "densenet40_k12_cifar10 xdensenet40_2_k24_bc_cifar10 wrn16_10_cifar10 wrn20_10_1bit_cifar10 ror3_56_cifar10 "
    "rir_cifar10 msdnet22_cifar10 resdropresnet20_cifar10 shakeshakeresnet20_2x16d_cifar10 shakedropresnet20_cifar10 "
    "fractalnet_cifar10 diaresnet20_cifar10 diapreresnet20_cifar10 isqrtcovresnet18 resneta10 resnetd50b "
    "fastseresnet101b octresnet10_ad2 ntsnet_cub fcn8sd_resnetd50b_voc pspnet_resnetd50b_voc deeplabv3_resnetd50b_voc "
    "icnet_resnetd50b_cityscapes fastscnn_cityscapes cgnet_cityscapes dabnet_cityscapes sinet_cityscapes "
    "bisenet_resnet18_celebamaskhq danet_resnetd50b_cityscapes fpenet_cityscapes ctxnet_cityscapes lednet_cityscapes "
    "esnet_cityscapes edanet_cityscapes enet_cityscapes erfnet_cityscapes linknet_cityscapes segnet_cityscapes "
    "unet_cityscapes sqnet_cityscapes alphapose_fastseresnet101b_coco simplepose_resnet18_coco "
    "simplepose_mobile_resnet18_coco lwopenpose2d_mobilenet_cmupan_coco ibppose_coco prnet centernet_resnet18_voc "
    "lffd20x5s320v2_widerface pfpcnet tresnet_m espcnet_cityscapes"
)
PYTORCHCV = {name: functools.partial(_pytorchcv, name) for name in _PYTORCHCV.split()}

# in train mode: MONAI's variational encoder writes into what its backward in eval mode needs
IN_TRAIN_MODE = {"monai/VarAutoEncoder"}
# in both modes: in eval mode a detector of YOLO decodes its boxes
IN_BOTH_MODES = {"ultralytics/yolov8n", "ultralytics/yolov10n"}
PACKAGES = {"smp": "segmentation_models_pytorch"}  # where the module has another name than here
LIBRARIES: dict[str, dict[str, Callable[[], Made]]] = {
    "smp": SMP,
    "monai": MONAI,
    "transformers": TRANSFORMERS,
    "diffusers": DIFFUSERS,
    "torchaudio": TORCHAUDIO,
    "ultralytics": ULTRALYTICS,
    "pytorchcv": PYTORCHCV,
}
