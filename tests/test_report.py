"""The report: complete, self-contained, escaped, and with the numbers that were computed."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_deploy import make_activity
from test_neurons import lively, lively_inputs

from deploy import chip as chips
from deploy import command, cost, mapping, rules
from deploy.activity_store import write_activity
from deploy.report import formats
from deploy.report.equivalence import read_equivalence
from export.network import LayerRecord, Network
from export.store import write_network
from sim import fast
from sim.activity import measure
from train.errors import CheckFailedError, UserError

HOSTILE = "<script>alert(1)</script>\"'&<img src=http://example.org/x>{{ 7*7 }}[bold]"


LAYER = {"population": "conv1", "agreement": 0.998, "own": 0.999, "count_distance": 0.0123, "correct": 197}
PROBE = {"samples": 200, "labelled": True, "float_correct": 198, "integer_correct": 196, "loss_begins": "conv1"}


def equivalence(network: Network, equal: bool = True) -> dict[str, Any]:
    """What the simulator writes."""
    populations = [
        {"id": p.id, "spikes": None if p.readout else 7, "compared": 20 * 4 * p.size, "mismatches": 0 if equal else 3}
        for p in network.populations[1:]
    ]
    divergence = {"sample": 1, "step": 2, "population": "conv2", "neuron": [0, 1, 2], "text": f"u = 3 {HOSTILE}"}
    return {
        "schema_version": 2,
        "network": network.digest,
        "comparisons": [
            {
                "engines": ["integer", "lava"],
                "samples": 20,
                "steps": 4,
                "equal": equal,
                "populations": populations,
                "divergence": None if equal else divergence,
            }
        ],
        "float": {"agreement": [LAYER], "accuracy": 0.986, "probe": PROBE},
        "accuracy": {"integer": [355, 360], "lava": [20, 20], "float": [356, 360]},
    }


def make_run(folder: Path, network: Network, equal: bool = True) -> Path:
    """A run folder with every file that the report reads."""
    folder.mkdir(parents=True, exist_ok=True)
    write_network(folder / "network.h5", network)
    write_activity(folder / "activity.h5", make_activity(network))
    (folder / "equivalence.json").write_text(json.dumps(equivalence(network, equal)))
    (folder / "config.json").write_text(json.dumps({"seed": 0, "model": {"name": HOSTILE, "channels": [4, 4]}}))
    return folder


def full_network(network: Network, name: str = "shift") -> Network:
    """The fixture with a quantisation record and a name of choice."""
    record = LayerRecord("conv1", (1.0, 2.5), 0.01, 3, 0.998, (-1000, 2000))
    return dataclasses.replace(network, name=name, records=(record,))


class Loads(HTMLParser):
    """Collects what a page would load, and the tags that it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [f"{tag} {key}={value}" for key, value in attrs if key in ("src", "href", "xlink:href", "data")]


def test_report_is_complete_and_self_contained(tmp_path: Path, shift_network: Network) -> None:
    network = full_network(shift_network)
    command.deploy(make_run(tmp_path / "run", network), "loihi2")
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'class="missing"' not in page
    plain = page.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    assert "This is Lava's CPU simulator of Loihi 2's fixed-point arithmetic, not the chip." in plain
    for title in ("Network", "Equality", "Accuracy", "Activity", "Quantisation", "Cost of a sample", "Chip plan"):
        assert f"<h2>{title}</h2>" in page
    parsed = Loads(page)
    assert not parsed.loads
    assert not parsed.tags & {"script", "img", "iframe", "object", "link", "base"}
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not set(re.findall(r"url\(([^)]*)\)", page)) - {"#tip"}


def test_a_hostile_name_is_text(tmp_path: Path, shift_network: Network) -> None:
    network = full_network(shift_network, name=HOSTILE)
    command.deploy(make_run(tmp_path / "run", network), "loihi2")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7*7 }}" in page
    assert not Loads(page).tags & {"script", "img"}


def test_without_optional_files_the_report_says_which_command_makes_them(
    tmp_path: Path, shift_network: Network
) -> None:
    write_network(tmp_path / "network.h5", shift_network)
    command.deploy(tmp_path, "loihi2")
    page = (tmp_path / "report.html").read_text()
    for what in ("python -m sim", "python -m export --target loihi2", "python -m train"):
        assert what in page
    assert page.count('class="missing"') == 6
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["cost"] is report["activity"] is report["equivalence"] is report["provenance"] is None
    assert report["plan"]["fits"]


def test_report_json_has_the_numbers_that_were_computed(tmp_path: Path, shift_network: Network) -> None:
    network = full_network(shift_network)
    command.deploy(make_run(tmp_path, network), "loihi2")
    report = json.loads((tmp_path / "report.json").read_text())
    chip = chips.load("loihi2")
    plan = mapping.plan(network, chip)
    counts = cost.count(network, make_activity(network))
    assert report["plan"]["cores"] == plan.cores
    assert [p["memory_bits"] for p in report["plan"]["placements"]] == [p.memory_bits for p in plan.placements]
    assert report["cost"]["synaptic_operations"] == counts.synaptic_operations
    assert [e["low_pj"] for e in report["cost"]["energies"]] == [e.low for e in cost.energies(network, counts, chip)]
    assert report["network"]["latency"] == network.latency
    assert report["equivalence"] == {
        k: equivalence(network)[k] for k in ("network", "comparisons", "float", "accuracy")
    }
    assert report["quantisation"][0]["bits_in_use"] == network.records[0].bits_in_use
    page = (tmp_path / "report.html").read_text()
    assert formats.number(counts.synaptic_operations) in page
    assert formats.energy(report["cost"]["energies"][1]["low_pj"]) in page


def test_every_energy_stands_with_its_label(tmp_path: Path, shift_network: Network) -> None:
    command.deploy(make_run(tmp_path, full_network(shift_network)), "loihi2")
    report = json.loads((tmp_path / "report.json").read_text())
    for energy in report["cost"]["energies"]:
        assert energy["label"]
        assert energy["caveat"]
        assert all(constant["source"] for term in energy["terms"] for constant in term["constants"])
    assert "has no published constants" in (tmp_path / "report.html").read_text()


def test_a_divergence_is_shown(tmp_path: Path, shift_network: Network) -> None:
    command.deploy(make_run(tmp_path, full_network(shift_network), equal=False), "loihi2")
    page = (tmp_path / "report.html").read_text()
    assert "First divergence: sample 1, step 2, population <b>conv2</b>, neuron 0, 1, 2." in page
    assert "not equal" in page


def test_a_network_that_does_not_fit_fails_the_check_and_has_a_report(tmp_path: Path, shift_network: Network) -> None:
    write_network(tmp_path / "network.h5", shift_network)
    with pytest.raises(CheckFailedError, match="breaks 1 rule of Intel Loihi"):
        command.deploy(tmp_path, "loihi1")
    report = json.loads((tmp_path / "report.json").read_text())
    (expected,) = rules.violations(shift_network, mapping.plan(shift_network, chips.load("loihi1")))
    assert report["plan"]["violations"][0]["text"] == str(expected)
    assert "does not fit" in (tmp_path / "report.html").read_text()


def test_numbers_that_json_cannot_say_become_null(tmp_path: Path, shift_network: Network) -> None:
    record = LayerRecord("conv1", (float("nan"), 1.0), float("inf"), 0, 1.0, (-1, 1))
    write_network(tmp_path / "network.h5", dataclasses.replace(shift_network, records=(record,)))
    command.deploy(tmp_path, "loihi2")
    assert json.loads((tmp_path / "report.json").read_text())["quantisation"][0]["scale"] == [None, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 1}, "schema version 1"),
        ({"comparisons": {}}, "field 'comparisons' is dict"),
        ({"comparisons": [{}]}, r"comparisons\[0\]: field 'engines' is missing"),
        ({"accuracy": {"lava": [3, 2]}}, r"'lava' is not \[correct, total\]"),
        ({"accuracy": {"lava": [0, 0]}}, r"'lava' is not \[correct, total\]"),
        ({"float": {"agreement": [{**LAYER, "agreement": 2}], "accuracy": 0.5, "probe": PROBE}}, "expected a fraction"),
        ({"float": {"agreement": [{**LAYER, "correct": 201}], "accuracy": 0.5, "probe": PROBE}}, "expected 0..200"),
        ({"float": {"agreement": [{**LAYER, "count_distance": -1}], "accuracy": 0.5, "probe": PROBE}}, "not negative"),
        ({"float": {"agreement": [LAYER], "accuracy": 0.5, "probe": {**PROBE, "samples": 0}}}, "at least 1"),
        ({"float": {"agreement": [LAYER], "accuracy": 0.5}}, "'probe' is missing"),
        ({"float": 3}, "field 'accuracy' is missing"),
    ],
)
def test_a_damaged_equivalence_is_one_clear_line(
    tmp_path: Path, shift_network: Network, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "equivalence.json"
    path.write_text(json.dumps({**equivalence(shift_network), **change}))
    with pytest.raises(UserError, match=message) as caught:
        read_equivalence(path)
    assert str(path) in str(caught.value)


def test_equal_with_mismatches_is_a_contradiction(tmp_path: Path, shift_network: Network) -> None:
    data = equivalence(shift_network, equal=False)
    data["comparisons"][0]["equal"] = True
    path = tmp_path / "equivalence.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="says equal, and counts mismatches"):
        read_equivalence(path)


def test_equality_over_no_spikes_is_no_equality(tmp_path: Path, shift_network: Network) -> None:
    data = equivalence(shift_network)
    for population in data["comparisons"][0]["populations"]:
        population["spikes"] = population["spikes"] and 0
    path = tmp_path / "equivalence.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="says equal, over no spikes at all"):
        read_equivalence(path)


def test_an_equivalence_of_another_network_is_refused(tmp_path: Path, shift_network: Network) -> None:
    run = make_run(tmp_path, full_network(shift_network))
    data = json.loads((run / "equivalence.json").read_text())
    (run / "equivalence.json").write_text(json.dumps({**data, "network": "0" * 64}))
    with pytest.raises(UserError, match="belongs to another network"):
        command.deploy(run, "loihi2")


def test_formats() -> None:
    assert formats.number(1234567) == "1,234,567"
    assert formats.number(12.34) == "12.3"
    assert formats.percent(0.99999).startswith("> 99.9")
    assert formats.percent(1.0).startswith("100.0")
    assert formats.percent(0.00001).startswith("< 0.1")
    assert formats.energy(1500) == f"1.50{formats.NO_BREAK}nJ"
    assert formats.memory(8 * 2048) == f"2{formats.NO_BREAK}KiB"


def test_command_line(tmp_path: Path, shift_network: Network) -> None:
    write_network(tmp_path / "network.h5", shift_network)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy", *arguments]
        return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)

    fits = run(str(tmp_path))
    assert fits.returncode == 0, fits.stderr
    assert "report.html" in fits.stdout
    assert run(str(tmp_path), "--chip", "loihi1").returncode == 1
    bad = run(str(tmp_path), "--chip", "loihi7")
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1
    assert "Traceback" not in bad.stderr
    assert "--chip" in run("--help").stdout


def test_planning_and_reporting_import_no_torch() -> None:
    code = (
        "import sys, deploy.command, deploy.activity_store; sys.exit('torch' in sys.modules or 'lava' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_what_is_not_stock_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Clocks are drawn, and a reset that Lava does not have is a line in the report and on the screen."""
    network, x = lively(), lively_inputs(3)
    write_network(tmp_path / "network.h5", network)
    write_activity(tmp_path / "activity.h5", measure(network, fast.run(network, x), x, {}))
    command.deploy(tmp_path, "loihi2")
    page = html.unescape((tmp_path / "report.html").read_text())
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["network"]["not_stock"][0] in page
    assert "A spike subtracts the threshold in dense" in " ".join(capsys.readouterr().out.split())
    kinds = {p["id"]: (p["kind"], p["reset"]) for p in report["network"]["populations"]}
    assert kinds["clock"] == ("clock", None)
    assert kinds["dense"] == ("LIF", "subtract")
    assert ">clock<" in page
    assert "LIF, gated, reset subtracts" in page
