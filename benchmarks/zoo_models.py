"""The models of the zoo: name -> how to make one with the arguments of one call. Random weights, nothing is downloaded.

torchvision's are all there; those of timm and transformers where these packages can be imported.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterable

import torch
import zoo_timm
import zoo_transformers
from torch import nn
from zoo_cases import Case, cases

FEW = (
    "alexnet convnext_tiny deeplabv3_mobilenet_v3_large densenet121 efficientnet_b0 fasterrcnn_mobilenet_v3_large_320_fpn "
    "fcn_resnet50 fcos_resnet50_fpn googlenet inception_v3 keypointrcnn_resnet50_fpn lraspp_mobilenet_v3_large "
    "maskrcnn_resnet50_fpn maxvit_t mc3_18 mnasnet0_5 mobilenet_v2 mobilenet_v3_small mvit_v2_s r3d_18 raft_small "
    "regnet_y_400mf resnet18 resnet50 retinanet_resnet50_fpn shufflenet_v2_x0_5 squeezenet1_1 ssdlite320_mobilenet_v3_large "
    "swin3d_t swin_t swin_v2_t vgg11_bn vit_b_32"
).split()
"""Of torchvision's, those of a quick run: one of each family."""

OPERATIONS = 10_000
"""Of the large graph."""

_RCNN = {"min_size": 96, "max_size": 128}

Zoo = dict[str, Callable[[], Case]]


def zoo(quick: bool, batch: int = 1) -> Zoo:
    """``source/name`` -> how to make it, with ``batch`` images or sentences; with ``quick`` one of each family."""
    sources: dict[str, tuple[Callable[[str, int], Case], Iterable[str]]] = {}
    if _installed("torchvision"):
        sources["torchvision"] = _torchvision_case, FEW if quick else _torchvision_names()
    if _installed("timm"):
        sources["timm"] = zoo_timm.timm_case, zoo_timm.FEW if quick else zoo_timm.NAMES
    if _installed("transformers"):
        sources["transformers"] = (
            zoo_transformers.transformers_case,
            zoo_transformers.FEW if quick else zoo_transformers.NAMES,
        )
    made = {f"hand-made/{name}": make for name, make in cases().items()}
    for source, (make, names) in sources.items():
        made |= {f"{source}/{name}": functools.partial(make, name, batch) for name in names}
    return made


def real_size() -> Zoo:
    """Models with the sizes and inputs that people train, and one graph that is large."""
    made: Zoo = {f"real size/{OPERATIONS:,} operations": _large_graph}
    if _installed("torchvision"):
        made |= {
            f"real size/{name} at 224 pixels": functools.partial(_image_model, name)
            for name in ("resnet50", "vit_b_16")
        }
    if _installed("transformers"):
        made["real size/GPT-2 of 124 million, 256 words"] = _gpt2
    return made


def missing() -> list[str]:
    """The sources that are not installed."""
    return [name for name in ("torchvision", "timm", "transformers", "torchlens") if not _installed(name)]


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _torchvision_names() -> list[str]:
    from torchvision import models

    return [name for name in models.list_models() if not name.startswith("quantized_")]


def _torchvision_case(name: str, batch: int) -> Case:
    from torchvision import models

    room = models.get_model_builder(name).__module__.removeprefix("torchvision.models.").split(".")[0]
    options = {"weights": None}
    if room in ("segmentation", "detection"):
        options["weights_backbone"] = None
    size: tuple[int, ...] = (3, 64, 64)
    if room == "detection":
        options |= _RCNN if "ssd" not in name else {}
        return models.get_model(name, **options).eval(), ([torch.rand(3, 96, 128) for _ in range(batch)],), {}
    if room == "optical_flow":
        return models.get_model(name, **options).eval(), (torch.rand(batch, 3, 128, 128),) * 2, {}
    if room == "video":
        size = (3, 16, 224, 224) if name.startswith(("mvit", "s3d")) else (3, 8, 64, 64)
    elif name.startswith("vit_"):
        size = (3, 56, 56) if name.endswith("14") else (3, 64, 64)
        options["image_size"] = size[-1]
    elif name in ("inception_v3", "googlenet"):
        size, options["init_weights"] = (3, 96, 96) if batch == 1 else (3, 299, 299), False
    elif name == "maxvit_t":
        size = (3, 224, 224)
    return models.get_model(name, **options).eval(), (torch.rand(batch, *size),), {}


def _image_model(name: str) -> Case:
    from torchvision import models

    return models.get_model(name).eval(), (torch.rand(1, 3, 224, 224),), {}


def _gpt2() -> Case:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config()).eval(), (), {"input_ids": torch.arange(256).reshape(1, 256)}


def _large_graph() -> Case:
    """Blocks of layers, operation after operation."""
    blocks = [nn.Sequential(*[nn.Linear(16, 16), nn.ReLU()] * 25) for _ in range(OPERATIONS // 50)]
    return nn.Sequential(*blocks).eval(), (torch.rand(4, 16),), {}
