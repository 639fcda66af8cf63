"""How the report writes numbers: thousands separators, three significant digits, units that fit the size."""

from __future__ import annotations

NO_BREAK = "\N{NARROW NO-BREAK SPACE}"
TIMES = "\N{MULTIPLICATION SIGN}"


def number(value: float) -> str:
    """A count: whole numbers in full, others to about three significant digits."""
    if float(value).is_integer() or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.01 else f"{value:.2g}"


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction in percent; what is not quite 100 % never rounds up to it, nor down to 0 %."""
    text = f"{100 * fraction:.{digits}f}"
    if fraction < 1 and float(text) >= 100:
        text = f"> {100 - 10**-digits:.{digits}f}"
    elif fraction > 0 and float(text) == 0:
        text = f"< {10**-digits:.{digits}f}"
    return f"{text}{NO_BREAK}%"


def energy(picojoules: float) -> str:
    """pJ, nJ, µJ or mJ."""
    return _scaled(picojoules, ("pJ", "nJ", "µJ", "mJ"), 1000)


def memory(bits: float) -> str:
    """Bits as bytes, KiB or MiB."""
    return _scaled(bits / 8, ("bytes", "KiB", "MiB", "GiB"), 1024)


def duration(nanoseconds: float) -> str:
    """ns, µs or ms."""
    return _scaled(nanoseconds, ("ns", "µs", "ms", "s"), 1000)


def _scaled(value: float, units: tuple[str, ...], step: int) -> str:
    for unit in units[:-1]:
        if value < step:
            return f"{number(value)}{NO_BREAK}{unit}"
        value /= step
    return f"{number(value)}{NO_BREAK}{units[-1]}"


def shape(sides: list[int]) -> str:
    """4 x 8 x 8, with proper multiplication signs."""
    return f" {TIMES} ".join(f"{side:,}" for side in sides)


def steps(delays: list[int]) -> str:
    """The delays of a connection in words, "" for none."""
    if delays == [0]:
        return ""
    return f"delay {delays[0]}" if len(delays) == 1 else f"delays {', '.join(map(str, delays))}"
