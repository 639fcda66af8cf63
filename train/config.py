"""What a run is made of, as frozen data: the command line fills it, config.json keeps it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from train import runs
from train.choices import (
    AttentionName,
    CodingName,
    DistillName,
    EventSplit,
    LossName,
    ModelName,
    NeuronName,
    OptimizerName,
    PrecisionName,
    ShiftPosition,
    ShiftSplit,
    SurrogateName,
)
from train.errors import UserError

SCHEMA_VERSION = 1
LARGEST_SEED = 2**31 - 1  # seeds of epochs and processes are made from it, in 63 bits
Section = TypeVar("Section")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_choices(config: ModelConfig | LossConfig) -> None:
    """A value outside its Literal is the user's mistake wherever it comes from: command line, JSON or Python."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            allowed = ", ".join(get_args(hint))
            raise UserError(f"{_flag(name)} {getattr(config, name)!r}", hint=f"allowed: {allowed}")


def _check_range(config: ModelConfig | LossConfig, name: str, low: float, high: float = math.inf) -> None:
    value = getattr(config, name)
    if not low <= value <= high or math.isinf(value):
        limit = f"allowed {low}..{high}" if high < math.inf else f"must be at least {low}"
        raise UserError(f"{_flag(name)} {value}, {limit}")


def _check_used(config: ModelConfig | LossConfig, used: bool, what: str, *names: str) -> None:
    """An option that would be ignored, though it is set, is a mistake."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name in names and not used and value != item.default:
            raise UserError(f"{_flag(item.name)} {value} has no effect without {what}")


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    model: ModelName = "small-conv"
    """Backbone; the plain resnets have the 3x3 stem for small images, those with -imagenet the 7x7 stem."""
    width: float = 1.0
    """Factor on all channel counts of the backbone."""
    time_steps: int = 4
    """Time steps T of a sample's window."""
    neuron: NeuronName = "lif"
    """Neuron; plif learns its leak, da-lif (DA-LIF) and adaptive-lif (STAA-SNN) leak and gain; relu is for teachers."""
    leak: float = 0.25
    """Leak of the neuron, its initial value where it is learned."""
    threshold: float = 0.5
    """Firing threshold of the neuron."""
    per_channel: bool = False
    """plif and da-lif learn one value a channel instead of one a layer."""
    surrogate: SurrogateName = "auto"
    """Surrogate gradient; auto is tanh, sharpened as in the paper of the attention where there is one."""
    attention: AttentionName = "none"
    """Attention at every neuron: none, staa (STAA-SNN), fsta (FSTA-SNN)."""
    temporal_shift: bool = False
    """TS-SNN: shift part of the channels one step to each side."""
    shift_position: ShiftPosition = "conv-input"
    """Where to shift: before every convolution of a block, before its first one, or on the neurons' input current."""
    shift_split: ShiftSplit = "random"
    """Channel groups of the shift while training: drawn at every pass, or fixed. At evaluation they are fixed."""

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_range(self, "time_steps", 1, 1024)
        _check_range(self, "width", 1 / 64, 64)
        if not 0 < self.leak < 1:
            raise UserError(f"--leak {self.leak}, allowed between 0 and 1", hint="--neuron if has no leak")
        if not 0 < self.threshold < math.inf:
            raise UserError(f"--threshold {self.threshold}, must be above 0")
        if self.neuron == "relu" and self.attention != "none":
            raise UserError(f"--attention {self.attention} needs a spiking neuron, not --neuron relu")
        _check_used(self, self.neuron in ("plif", "da-lif"), "--neuron plif or da-lif", "per_channel")
        _check_used(self, self.neuron not in ("if", "relu"), "a neuron that leaks", "leak")
        _check_used(self, self.neuron != "relu", "a spiking neuron", "threshold", "surrogate")
        _check_used(self, self.temporal_shift, "--temporal-shift", "shift_position", "shift_split")
        if self.model == "recurrent":
            if self.neuron == "relu":
                raise UserError("--model recurrent needs a spiking neuron, not --neuron relu")
            if self.attention != "none" or self.temporal_shift:
                raise UserError("--model recurrent takes neither --attention nor --temporal-shift")


@dataclass(frozen=True)
class LossConfig:
    """What is minimised."""

    loss: LossName = "ce"
    """Cross-entropy of the mean logits (ce), of the logits at every step (tsce), tet adds TET's squared error; bce asks
    of every class by itself whether it is the one."""
    label_smoothing: float = 0.1
    """Probability mass that the target spreads over all classes."""
    tet_weight: float = 0.05
    """Weight of TET's squared error against the cross-entropy."""
    tet_target: float = 1.0
    """What TET's squared error pulls every logit to."""
    distill: DistillName = "none"
    """Learn from a teacher: kl (on the mean logits), hta-kl (HTA-KL), tser (TSER: at every step, also the labels)."""
    temperature: float = 4.0
    """Temperature of teacher and student in the distillation."""
    distill_weight: float = 0.5
    """Weight of the distillation against the labels."""
    entropy_weight: float = 0.05
    """tser: weight of the student's entropy, which is maximised."""
    head_mass: float = 0.5
    """hta-kl: the teacher's classes up to this total probability are the head."""
    mask_divergences: bool = False
    """hta-kl: forward KL over the head and reverse KL over the tail only, instead of both over all classes."""

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("label_smoothing", "tet_weight", "distill_weight", "head_mass"):
            _check_range(self, name, 0, 1)
        _check_range(self, "entropy_weight", 0)
        if not 0 < self.temperature < math.inf:
            raise UserError(f"--temperature {self.temperature}, must be above 0")
        _check_used(self, self.loss == "tet", "--loss tet", "tet_weight", "tet_target")
        _check_used(self, self.distill != "none", "--distill", "temperature", "distill_weight")
        _check_used(self, self.distill == "tser", "--distill tser", "entropy_weight")
        _check_used(self, self.distill == "hta-kl", "--distill hta-kl", "head_mass", "mask_divergences")
        if self.distill == "tser" and self.loss == "bce":
            raise UserError("--distill tser takes no --loss bce", hint="it compares labels at every step: tsce or tet")


@dataclass(frozen=True)
class TrainConfig(LossConfig):
    """The network, its data and the recipe."""

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: str = "digits"
    """Data set: digits (bundled with scikit-learn), cifar10, cifar100, mnist, fashion-mnist, tiny-imagenet, imagenet,
    n-mnist, dvs128-gesture, cifar10-dvs."""
    data_dir: str = ""
    """Folder that holds the data set's published folder; nothing is downloaded."""
    train_samples: int = 0
    """Train on this many samples, evenly spread over the training set; 0 for all."""
    test_samples: int = 0
    """Test on this many samples, evenly spread over the test set; 0 for all."""
    augment: str = "none"
    """Augmentation: none, flip, crop-flip, crop-flip-cutout, autoaugment, randaugment, roll, events,
    snn-augment-wide."""
    augment_repeats: int = 1
    """Show every sample this many times in an epoch, each time augmented anew, and as many fewer samples."""
    crop_scale: float = 0.08
    """imagenet: the smallest part of an image's area that a random crop takes."""
    mixup: float = 0.0
    """Mix pairs of samples and their labels, in shares drawn from Beta(this, this); 0 for none."""
    cutmix: float = 0.0
    """Put a box of one sample into another, of an area drawn from Beta(this, this); with --mixup, either by chance."""
    mix_probability: float = 1.0
    """Probability that a batch is mixed by --mixup or --cutmix."""
    event_split: EventSplit = "number"
    """How the events of a recording are divided among its frames: equal numbers of events, or equal times."""
    coding: CodingName = "direct"
    """Images over time: the same image at every step, or spikes drawn with the pixel's value as probability."""
    teacher: str = ""
    """Run folder of the teacher; needs --distill."""
    epochs: int = 40
    """Passes over the training set."""
    batch_size: int = 64
    """Samples per step."""
    optimizer: OptimizerName = "sgd"
    """sgd has Nesterov momentum; adamw and lamb have their usual betas, and want far lower learning rates."""
    learning_rate: float = 0.1
    """Peak learning rate; falls along a cosine."""
    final_learning_rate: float = 0.0
    """Learning rate at the end of the cosine."""
    warmup_epochs: int = 0
    """Epochs over which the learning rate first rises along a line."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 penalty on convolution and linear weights."""
    seed: int = 0
    """Seed of initial values, batch order and random splits."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 ..."""
    precision: PrecisionName = "fp32"
    """Arithmetic of convolutions and linear layers; bf16 keeps weights and membrane potentials in fp32."""
    workers: int = 0
    """Threads that read and augment batches ahead of time."""
    init: str = ""
    """Run folder of a float model of the same network whose weights to start from."""
    quantize: bool = False
    """Train the last epochs in the integers of Loihi 2: the trained model then is what the chip runs."""
    quantize_epochs: int = 0
    """How many epochs that are; 0 for a quarter of --epochs, at least one."""
    quantize_bits: int = 8
    """Bits of a weight, 2..8."""
    evaluate_every: int = 1
    """Epochs between two looks at the test set; the last epoch is always tested."""
    tensorboard: bool = False
    """Write TensorBoard events into the run folder (needs the tensorboard package)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (
            ("epochs", 1),
            ("batch_size", 2),
            ("learning_rate", 0.0),
            ("final_learning_rate", 0.0),
            ("warmup_epochs", 0),
            ("train_samples", 0),
            ("test_samples", 0),
            ("workers", 0),
            ("evaluate_every", 1),
            ("quantize_epochs", 0),
            ("augment_repeats", 1),
            ("mixup", 0.0),
            ("cutmix", 0.0),
            ("weight_decay", 0.0),
        ):
            _check_range(self, name, low)
        if not 0 <= self.momentum < 1:
            raise UserError(f"--momentum {self.momentum}, allowed 0 up to but not 1")
        _check_range(self, "seed", 0, LARGEST_SEED)
        if self.train_samples == 1:
            raise UserError("--train-samples 1", hint="batch norm needs two; 0 for all")
        if self.warmup_epochs >= self.epochs:
            raise UserError(f"--warmup-epochs {self.warmup_epochs}, must be fewer than --epochs {self.epochs}")
        _check_range(self, "crop_scale", 0.01, 1)
        _check_range(self, "mix_probability", 0, 1)
        _check_range(self, "quantize_bits", 2, 8)
        if self.quantize:
            _check_quantize(self)
        _check_used(self, self.quantize, "--quantize", "quantize_epochs", "quantize_bits")
        if self.distill != "none" and not self.teacher:
            raise UserError(f"--distill {self.distill} needs --teacher RUN")
        if self.teacher and self.distill == "none":
            raise UserError(f"--teacher {self.teacher} needs --distill", hint="allowed: kl, hta-kl, tser")

    @property
    def float_epochs(self) -> int:
        """Epochs before training goes on in integers; all of them without --quantize."""
        return self.epochs - (self.quantize_epochs or max(1, self.epochs // 4)) if self.quantize else self.epochs


def _check_quantize(config: TrainConfig) -> None:
    model = config.model
    if config.float_epochs < (0 if config.init else 1):
        raise UserError(
            f"--quantize needs fewer --quantize-epochs than --epochs {config.epochs}, or float weights to start from",
            hint="--init RUN",
        )
    if 0 < config.float_epochs <= config.warmup_epochs:
        raise UserError(f"--warmup-epochs {config.warmup_epochs}, float epochs before --quantize {config.float_epochs}")
    for name in ("mixup", "cutmix"):
        if getattr(config, name):
            raise UserError(f"--quantize takes no --{name}", hint="mixed samples are not whole numbers")
    if model.attention != "none":
        raise UserError(f"--quantize takes no --attention {model.attention}", hint="attention has no integer rule")
    if model.neuron == "relu":
        raise UserError("--quantize takes no --neuron relu", hint="spiking networks only")


def differences(before: TrainConfig, after: TrainConfig) -> list[str]:
    """The options, as on the command line, in which two configurations differ."""
    flat = [{**values.pop("model"), **values} for values in map(dataclasses.asdict, (before, after))]
    return [_flag(name) for name, value in flat[0].items() if value != flat[1][name]]


def to_json(config: TrainConfig, extra: dict[str, Any]) -> dict[str, Any]:
    """config.json: schema version, the configuration, and what else the caller wants on record."""
    return {"schema_version": SCHEMA_VERSION, "config": dataclasses.asdict(config), **extra}


def from_json(path: Path) -> TrainConfig:
    """Read the configuration of config.json (or of a file given with --config).

    Raises:
        UserError: missing, not JSON, another schema, an unknown field or a value of the wrong type.
    """
    data = runs.read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("config"), dict):
        raise UserError("not a run configuration", where=str(path))
    if data.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"schema version {data.get('schema_version')}, this program reads {SCHEMA_VERSION}", where=str(path)
        )
    values = dict(data["config"])
    model = _section(ModelConfig, values.pop("model", {}), path)
    return _section(TrainConfig, {"model": model, **values}, path)


def _section(kind: type[Section], values: Any, path: Path) -> Section:
    if not isinstance(values, dict):
        raise UserError(f"{kind.__name__} is {type(values).__name__}, expected an object", where=str(path))
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in fields:
            raise UserError(f"unknown field {name!r}", where=str(path))
        default = fields[name].default
        expected = ModelConfig if name == "model" and kind is TrainConfig else type(default)
        if expected is float and type(value) is int:
            continue
        if type(value) is not expected:
            raise UserError(f"field {name!r} is {type(value).__name__}, expected {expected.__name__}", where=str(path))
    try:
        return kind(**values)
    except UserError as error:  # the same check as for the command line, but here the file is to blame
        raise UserError(error.what, where=str(path), hint=error.hint) from error
