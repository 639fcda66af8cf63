"""Recipes by the name of the paper they follow; the tag of a value says how surely the paper used it.

    python -m train --preset ts-snn-cifar10

Distilling presets expect the run folder of their teacher:

    python -m train --preset teacher-cifar10 --out runs/teacher-cifar10
    python -m train --preset tser-cifar10

The six papers are from one group; where a paper's recipe is unknown, the one of the official FSTA-SNN code stands in.
"""

from __future__ import annotations

from dataclasses import replace

from train.config import ModelConfig, TrainConfig
from train.errors import UserError

# FSTA-SNN, official settings [C]: SGD with Nesterov 0.9, 0.1, cosine, 600 epochs, batch 128, smoothing 0.1, no decay
# on CIFAR-10; 10 epochs of warm-up from 1e-5 and down to 1e-5 there. Its 10 epochs of cool-down are left out.
_FSTA_CIFAR10 = TrainConfig(
    model=ModelConfig(model="resnet-20", time_steps=2, attention="fsta"),
    dataset="cifar10",
    epochs=600,
    batch_size=128,
    learning_rate=0.1,
    final_learning_rate=1e-5,
    warmup_epochs=10,
    weight_decay=0.0,
    augment="autoaugment",
)
# ... ResNet-19 and decay 1e-4 on CIFAR-100 [C]
_FSTA_CIFAR100 = replace(
    _FSTA_CIFAR10,
    model=ModelConfig(model="resnet-19", time_steps=2, attention="fsta"),
    dataset="cifar100",
    weight_decay=1e-4,
    warmup_epochs=0,
)
# ... CIFAR10-DVS in 10 frames of 64 x 64, rate 0.02, 500 epochs, batch 32, mixup 0.5, mixed precision [C]
_FSTA_DVS = replace(
    _FSTA_CIFAR10,
    model=ModelConfig(model="resnet-20", time_steps=10, attention="fsta"),
    dataset="cifar10-dvs",
    epochs=500,
    batch_size=32,
    learning_rate=0.02,
    weight_decay=1e-4,
    augment="snn-augment-wide",
    mixup=0.5,
    precision="bf16",
)

# ... DVS128 Gesture in 16 frames, LAMB from 5e-3 to 1e-5, decay 0.02, 200 epochs, batch 4, BCE, mixed precision [C]
_FSTA_GESTURE = replace(
    _FSTA_CIFAR10,
    model=ModelConfig(model="resnet-20", time_steps=16, attention="fsta"),
    dataset="dvs128-gesture",
    epochs=200,
    batch_size=4,
    optimizer="lamb",
    learning_rate=5e-3,
    weight_decay=0.02,
    warmup_epochs=0,
    loss="bce",
    augment="none",
    precision="bf16",
)

# ... ImageNet: ResNet-18, T = 4, LAMB from 1.5e-3 to 1.5e-5, decay 0.01, 120 epochs, batch 64, RandAugment, every
# sample three times, mixup 0.2 or CutMix 1 on 60 % of the batches, crops from 0.2 of the area, bf16 [C]. timm switches
# its colour jitter off beside RandAugment. The published code cannot run this recipe: it has no path for ImageNet.
_FSTA_IMAGENET = replace(
    _FSTA_CIFAR10,
    model=ModelConfig(model="resnet-18-imagenet", time_steps=4, attention="fsta"),
    dataset="imagenet",
    epochs=120,
    batch_size=64,
    optimizer="lamb",
    learning_rate=1.5e-3,
    final_learning_rate=1.5e-5,
    weight_decay=0.01,
    warmup_epochs=5,
    augment="randaugment",
    augment_repeats=3,
    crop_scale=0.2,
    mixup=0.2,
    cutmix=1.0,
    mix_probability=0.6,
    precision="bf16",
    workers=8,
)

# TS-SNN: ResNet-19 and T = 2 [I]; alpha 0.5 and 32 folds [S]; recipe of FSTA-SNN [I]
_TS_SNN_CIFAR100 = replace(_FSTA_CIFAR100, model=ModelConfig(model="resnet-19", time_steps=2, temporal_shift=True))
_TS_SNN_CIFAR10 = replace(_FSTA_CIFAR10, model=_TS_SNN_CIFAR100.model)

# STAA-SNN: ResNet-19, T = 4 [S], adaptive LIF and rectangular surrogate [S]; SGD from 0.1 [S], the rest as FSTA-SNN [I]
_STAA_CIFAR100 = replace(
    _FSTA_CIFAR100,
    model=ModelConfig(model="resnet-19", time_steps=4, neuron="adaptive-lif", attention="staa"),
)
_STAA_CIFAR10 = replace(_FSTA_CIFAR10, model=_STAA_CIFAR100.model)

# DA-LIF: nothing of network, T and recipe is known [U]; ResNet-20 and T = 4 are this project's choice
_DA_LIF_CIFAR10 = replace(_FSTA_CIFAR10, model=ModelConfig(model="resnet-20", time_steps=4, neuron="da-lif"))

# Code of a sibling paper of TSER [C for the sibling, I here]: SGD 0.9, 0.1, cosine to 0, 300 epochs, batch 128, decay
# 5e-4, ANN teacher ResNet-34; its students have leak 0.5, threshold 1, sigmoid surrogate. Label smoothing 0 [U].
_TEACHER_CIFAR10 = TrainConfig(
    model=ModelConfig(model="resnet-34", neuron="relu", time_steps=1),
    dataset="cifar10",
    epochs=300,
    batch_size=128,
    learning_rate=0.1,
    weight_decay=5e-4,
    label_smoothing=0.0,
    augment="autoaugment",
)
_TEACHER_CIFAR100 = replace(_TEACHER_CIFAR10, dataset="cifar100")

# TSER: ResNet-18 student [S], T = 4 [I]; alpha 0.5, lambda 0.05, temperature 4 for the KL term [I]
_TSER_CIFAR10 = replace(
    _TEACHER_CIFAR10,
    model=ModelConfig(model="resnet-18", time_steps=4, leak=0.5, threshold=1.0, surrogate="sigmoid"),
    teacher="runs/teacher-cifar10",
    loss="tsce",
    distill="tser",
    distill_weight=0.5,
    entropy_weight=0.05,
    temperature=4.0,
)
_TSER_CIFAR100 = replace(_TSER_CIFAR10, dataset="cifar100", teacher="runs/teacher-cifar100")

# HTA-KL: ResNet-19 student, T = 2 [S]; teacher [U], ResNet-34 as for TSER; head 0.5, temperature 4, weight 0.5 [I]
_HTA_KL_CIFAR10 = replace(
    _TEACHER_CIFAR10,
    model=ModelConfig(model="resnet-19", time_steps=2),
    teacher="runs/teacher-cifar10",
    distill="hta-kl",
    head_mass=0.5,
    distill_weight=0.5,
    temperature=4.0,
)

# Minutes on a laptop: the small network on part of the data; this project's own choice.
_QUICK = TrainConfig(model=ModelConfig(temporal_shift=True), epochs=10, batch_size=64, train_samples=5000)


# ... and fewer of what is large: frames of 64 x 64 and 128 x 128, photographs of 224 x 224.
_QUICK_LARGE = replace(
    _QUICK, model=ModelConfig(temporal_shift=True, width=0.5), epochs=5, train_samples=2000, test_samples=1000
)
_QUICK_IMAGENET = replace(_QUICK_LARGE, epochs=3, train_samples=1000, test_samples=500, augment="flip")


def _quick(dataset: str) -> TrainConfig:
    """The quick recipe for a data set; clips get no augmentation, photographs of 32 x 32 crop and flip."""
    if dataset == "imagenet":
        return replace(_QUICK_IMAGENET, dataset=dataset)
    if dataset in ("tiny-imagenet", "dvs128-gesture", "cifar10-dvs"):
        return replace(_QUICK_LARGE, dataset=dataset)
    augment = "crop-flip" if dataset in ("cifar10", "cifar100") else "none"
    return replace(_QUICK, dataset=dataset, augment=augment)


_QUICK_SETS = (
    "cifar10",
    "cifar100",
    "mnist",
    "fashion-mnist",
    "tiny-imagenet",
    "imagenet",
    "n-mnist",
    "dvs128-gesture",
    "cifar10-dvs",
)

PRESETS: dict[str, TrainConfig] = {
    "digits": TrainConfig(model=ModelConfig(temporal_shift=True)),
    "ts-snn-cifar10": _TS_SNN_CIFAR10,
    "ts-snn-cifar100": _TS_SNN_CIFAR100,
    "hta-kl-cifar10": _HTA_KL_CIFAR10,
    "tser-cifar10": _TSER_CIFAR10,
    "tser-cifar100": _TSER_CIFAR100,
    "staa-cifar10": _STAA_CIFAR10,
    "staa-cifar100": _STAA_CIFAR100,
    "da-lif-cifar10": _DA_LIF_CIFAR10,
    "fsta-cifar10": _FSTA_CIFAR10,
    "fsta-cifar100": _FSTA_CIFAR100,
    "fsta-dvs": _FSTA_DVS,
    "fsta-gesture": _FSTA_GESTURE,
    "fsta-imagenet": _FSTA_IMAGENET,
    "teacher-cifar10": _TEACHER_CIFAR10,
    "teacher-cifar100": _TEACHER_CIFAR100,
    **{f"quick-{name}": _quick(name) for name in _QUICK_SETS},
}


def preset(name: str) -> TrainConfig:
    """A recipe by name.

    Raises:
        UserError: no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}", hint=f"known presets: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
