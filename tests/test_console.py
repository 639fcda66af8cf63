"""What training prints: the bar on a narrow terminal, and plain lines where there is no terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from train import console
from train.config import ModelConfig, TrainConfig
from train.loop import train

NOTE = "loss 2.313  test 45.67%"


def line(monkeypatch: pytest.MonkeyPatch, width: int, done: int, note: str) -> str:
    """The bar on a terminal of `width` columns, a second after each of `done` batches of 3910."""
    terminal = Console(width=width, force_terminal=True, file=io.StringIO(), soft_wrap=True)
    monkeypatch.setattr(console, "console", terminal)
    bar = console.progress()
    now = 0.0
    monkeypatch.setattr(bar, "get_time", lambda: now)
    task = bar.add_task("train", total=3910, unit="batches", note=note)
    monkeypatch.setattr(bar.tasks[0], "_get_time", bar.get_time)
    for _ in range(done):
        now += 1
        bar.advance(task)
    with terminal.capture() as shown:
        terminal.print(bar.get_renderable())
    (text,) = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.get()).splitlines()
    return text.rstrip()


def test_the_rate_and_the_time_left_are_whole_on_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    for note in ("", NOTE):
        text = line(monkeypatch, 80, 310, note)
        assert "310/3910 1.00 batches/s left 1:00:00" in text
        assert text.endswith(note)
        assert len(text) <= 80


def test_a_narrow_terminal_cuts_the_note_only(monkeypatch: pytest.MonkeyPatch) -> None:
    text = line(monkeypatch, 66, 310, NOTE)
    assert "310/3910 1.00 batches/s left 1:00:00 loss" in text
    assert text.endswith("…")
    assert len(text) <= 66


def test_the_bar_begins_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    assert line(monkeypatch, 80, 0, "").split()[-3:] == ["0/3910", "left", "-:--:--"]
    assert " 2/3910 1.00 batches/s left 1:05:08" in line(monkeypatch, 80, 2, "")
    assert "3910/3910 1.00 batches/s took 1:05:" in line(monkeypatch, 80, 3910, "")


def test_output_without_a_terminal_has_the_data_and_a_line_an_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ModelConfig(time_steps=1, width=0.25)
    train(TrainConfig(model=model, train_samples=4, batch_size=2, epochs=3, evaluate_every=2, device="cpu"), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "digits: 1437 training samples, 360 test samples"
    first, second, third = (row for row in lines if row.startswith("epoch "))
    number, speed = r"\d+\.\d+", r"[\d,]+ samples/s"
    assert re.fullmatch(rf"epoch 1 of 3  loss {number}  {speed}", first)
    assert re.fullmatch(rf"epoch 2 of 3  loss {number}  test {number}%  {speed}", second)
    assert re.fullmatch(rf"epoch 3 of 3  loss {number}  test {number}%  {speed}", third)
