"""The models of the zoo: name -> how to make one with the arguments of one call. Random weights, nothing is downloaded.

torchvision's are all there; those of timm and transformers where these packages can be imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from zoo_cases import Case, cases

QUICK = (
    "alexnet convnext_tiny deeplabv3_mobilenet_v3_large densenet121 efficientnet_b0 fasterrcnn_mobilenet_v3_large_320_fpn "
    "fcn_resnet50 fcos_resnet50_fpn googlenet inception_v3 keypointrcnn_resnet50_fpn lraspp_mobilenet_v3_large "
    "maskrcnn_resnet50_fpn maxvit_t mc3_18 mnasnet0_5 mobilenet_v2 mobilenet_v3_small mvit_v2_s r3d_18 raft_small "
    "regnet_y_400mf resnet18 resnet50 retinanet_resnet50_fpn shufflenet_v2_x0_5 squeezenet1_1 ssdlite320_mobilenet_v3_large "
    "swin3d_t swin_t swin_v2_t vgg11_bn vit_b_32"
).split()
"""One of each family of torchvision's."""

_RCNN = {"min_size": 96, "max_size": 128}
_TRANSFORMERS = {
    "encoder": "albert bert deberta-v2 distilbert electra mpnet roberta roformer squeezebert xlm-roberta",
    "decoder": "bloom codegen falcon gemma gpt2 gpt_neo gpt_neox gptj llama mistral mixtral mpt olmo opt phi qwen2 stablelm",
    "vision": "beit convnext deit dinov2 mobilevit poolformer regnet resnet segformer swin vit vit_mae",
}
_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}


def zoo(quick: bool) -> dict[str, Callable[[], Case]]:
    """``source/name`` -> how to make it; with ``quick`` one of each family."""
    return {
        **{f"hand-made/{name}": make for name, make in cases().items()},
        **{f"torchvision/{name}": make for name, make in _torchvision(quick).items()},
        **{f"timm/{name}": make for name, make in _timm(quick).items()},
        **{f"transformers/{name}": make for name, make in _transformers().items()},
    }


def missing() -> list[str]:
    """The sources that are not installed."""
    return [name for name in ("torchvision", "timm", "transformers") if not importlib.util.find_spec(name)]


def _torchvision(quick: bool) -> dict[str, Callable[[], Case]]:
    if "torchvision" in missing():
        return {}
    from torchvision import models

    names = [name for name in models.list_models() if not name.startswith("quantized_")]
    return {name: (lambda name=name: _torchvision_case(name)) for name in names if not quick or name in QUICK}


def _torchvision_case(name: str) -> Case:
    from torchvision import models

    room = models.get_model_builder(name).__module__.removeprefix("torchvision.models.").split(".")[0]
    options = {"weights": None}
    if room in ("segmentation", "detection"):
        options["weights_backbone"] = None
    size: tuple[int, ...] = (1, 3, 64, 64)
    if room == "detection":
        options |= _RCNN if "ssd" not in name else {}
        return models.get_model(name, **options).eval(), ([torch.rand(3, 96, 128)],), {}
    if room == "optical_flow":
        return models.get_model(name, **options).eval(), (torch.rand(1, 3, 128, 128),) * 2, {}
    if room == "video":
        size = (1, 3, 16, 224, 224) if name.startswith(("mvit", "s3d")) else (1, 3, 8, 64, 64)
    elif name.startswith("vit_"):
        size = (1, 3, 56, 56) if name.endswith("14") else (1, 3, 64, 64)
        options["image_size"] = size[-1]
    elif name in ("inception_v3", "googlenet"):
        size, options["init_weights"] = (1, 3, 96, 96), False
    elif name == "maxvit_t":
        size = (1, 3, 224, 224)
    return models.get_model(name, **options).eval(), (torch.rand(size),), {}


def _timm(quick: bool) -> dict[str, Callable[[], Case]]:
    if "timm" in missing():
        return {}
    import timm

    smallest: dict[str, list[str]] = {}
    for name in timm.list_models():
        smallest.setdefault(timm.models.get_arch_name(name).split("_")[0], []).append(name)
    chosen = [name for names in smallest.values() for name in names[: 1 if quick else 4]]

    def case(name: str) -> Case:
        model = timm.create_model(name, pretrained=False).eval()
        return model, (torch.rand(1, *model.default_cfg["input_size"]),), {}

    return {name: (lambda name=name: case(name)) for name in chosen}


def _transformers() -> dict[str, Callable[[], Case]]:
    if "transformers" in missing():
        return {}
    from transformers import AutoConfig, AutoModel

    def case(kind: str, name: str) -> Case:
        config = AutoConfig.for_model(name)
        for key, number in _TINY.items():
            if isinstance(getattr(config, key, None), int):
                setattr(config, key, number)
        size = getattr(config, "image_size", 64)
        image = torch.rand(1, 3, *(size if isinstance(size, (list, tuple)) else (size, size)))
        inputs = {"pixel_values": image} if kind == "vision" else {"input_ids": torch.arange(1, 17).reshape(2, 8)}
        return AutoModel.from_config(config).eval(), (), inputs

    return {
        name: (lambda kind=kind, name=name: case(kind, name))
        for kind, names in _TRANSFORMERS.items()
        for name in names.split()
    }
