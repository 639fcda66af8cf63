"""What each method does against the same network without it: a table of test accuracies, mean and spread over seeds.

    python benchmarks/methods.py --data-dir DATA --out runs/methods

Every row is `python -m train` with the options named in it; a run that is already there is not trained again, so the
table can be made in parts. Methods that do not help are rows like the others.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from train import metrics, runs
from train.checkpoint import load


@dataclass(frozen=True)
class Row:
    """A method: its name and its options."""

    name: str
    options: tuple[str, ...]


# at the learning rate of the spiking networks, and at a third of it, some ReLU networks diverge
TEACHER = Row("teacher (ReLU, T = 1)", ("--neuron", "relu", "--time-steps", "1", "--learning-rate", "0.01"))
ROWS = (
    Row("LIF", ()),
    Row("temporal shift (TS-SNN)", ("--temporal-shift",)),
    Row("DA-LIF", ("--neuron", "da-lif")),
    Row("PLIF", ("--neuron", "plif")),
    Row("STAA-SNN (attention and adaptive LIF)", ("--attention", "staa", "--neuron", "adaptive-lif")),
    Row("FSTA-SNN", ("--attention", "fsta")),
    Row("distilled, KL", ("--distill", "kl")),
    Row("distilled, HTA-KL", ("--distill", "hta-kl")),
    Row("distilled, TSER", ("--distill", "tser", "--loss", "tsce")),
    Row("per-step loss (TSCE)", ("--loss", "tsce")),
    Row(
        "temporal shift, DA-LIF, TSER",
        ("--temporal-shift", "--neuron", "da-lif", "--distill", "tser", "--loss", "tsce"),
    ),
)


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="", help="folder that holds the data set's published folder")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--model", default="small-conv")
    parser.add_argument("--width", default="1.0")
    parser.add_argument("--train-samples", default="5000", help="evenly spread over the training set; 0 for all")
    parser.add_argument("--epochs", default="15")
    parser.add_argument("--time-steps", default="4")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="several calls can share the seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    options = parser.parse_args()
    common = [
        *("--dataset", options.dataset, "--data-dir", options.data_dir, "--model", options.model),
        *("--width", options.width, "--train-samples", options.train_samples, "--epochs", options.epochs),
        *("--evaluate-every", options.epochs),
        *("--augment", "crop-flip" if options.dataset.startswith("cifar") else "none"),
    ]
    results: dict[str, list[float]] = {}
    for seed in options.seeds:
        taught = options.out / f"teacher-{seed}"
        results.setdefault(TEACHER.name, []).append(_accuracy(taught, [*common, *TEACHER.options], seed))
        for row in ROWS:
            own = [*common, "--time-steps", options.time_steps, *row.options]
            if "--distill" in row.options:
                own += ["--teacher", str(taught)]
            folder = options.out / f"{'-'.join(o.strip('-') for o in row.options) or 'lif'}-{seed}"
            results.setdefault(row.name, []).append(_accuracy(folder, own, seed))
            print(_table(results), flush=True)


def _accuracy(run: Path, options: list[str], seed: int) -> float:
    """Test accuracy after the last epoch of the run, trained now if it is not there whole."""
    epochs = int(options[options.index("--epochs") + 1])
    if not (run / runs.CHECKPOINT).is_file() or load(run / runs.CHECKPOINT).epoch < epochs:
        command = [sys.executable, "-m", "train", *options, "--seed", str(seed), "--out", str(run)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return float(metrics.read(run)[-1]["test_accuracy"])


def _table(results: dict[str, list[float]]) -> str:
    """Markdown: mean and standard deviation in percent, and the difference to the plain network's mean."""
    base = statistics.mean(results["LIF"]) if "LIF" in results else float("nan")
    lines = ["| method | test accuracy, % | against LIF, points | seeds |", "|---|---|---|---|"]
    for name, values in results.items():
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        mean = statistics.mean(values)
        lines.append(f"| {name} | {100 * mean:.2f} ± {100 * spread:.2f} | {100 * (mean - base):+.2f} | {len(values)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
