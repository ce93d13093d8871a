"""How a record is named wherever a person reads it."""

from collections.abc import Mapping

from fourfold.record import Record

PROJECTED = "projected"
PROJECTED_MARK, BOUND_MARK = "~", "≤"

# What every cell has; a rule is worth a word only where it is not one of these.
USUAL_RULES = (None, "none", "backprop")


def hardware_label(record: Record) -> str:
    """The device's name; with the evidence beside it unless it was measured on that very device."""
    name = str(record.axes.get("hardware", "?"))
    return name if record.evidence == "measured" else f"{name} ({record.evidence})"


def run_name(record: Record) -> str:
    """The cell in words, without the hash of its folder's name."""
    words = [str(record.axes.get("benchmark", "?")), hardware_label(record)]
    words += [str(record.axes.get(axis, "?")) for axis in ("setting", "method")]
    if record.axes.get("rule") not in USUAL_RULES:
        words.append(str(record.axes["rule"]))
    return " ".join([*words, f"seed {record.axes.get('seed', '?')}"])


def rate_text(value: float) -> str:
    """Four significant digits, without an exponent where it can be read: 12 350, 512.4, 0.01234."""
    if value >= 1e7 or (value and abs(value) < 1e-4):
        return f"{value:.3e}"
    if abs(value) >= 1000:
        return f"{float(f'{value:.4g}'):,.0f}"
    return f"{value:.4g}"


def bytes_text(count: float) -> str:
    """In binary units: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def seconds_text(value: float) -> str:
    """0.42 s, 12 s, 3 min 20 s, 2 h 05 min."""
    if value < 10:
        return f"{value:.2g} s"
    if value < 100:
        return f"{value:.0f} s"
    minutes, seconds = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def projected_mark(upper_bound: float | None) -> str:
    """What stands before a projected number: about that, or at most that where nothing was fitted."""
    return BOUND_MARK if upper_bound else PROJECTED_MARK


def projected_text(record: Record, numbers: Mapping[str, float]) -> str | None:
    """A projected cell in a line of Markdown, marked and in italics; None for others, and without a rate."""
    rate = numbers.get("units_per_second")
    if record.evidence != PROJECTED or rate is None:
        return None
    low, high = numbers.get("units_per_second_low"), numbers.get("units_per_second_high")
    interval = "" if low is None or high is None else f" ({rate_text(low)} to {rate_text(high)})"
    unit = record.measurements.get("unit", "units")
    text = (
        f"*{projected_mark(numbers.get('upper_bound'))}{rate_text(rate)} {unit}/s{interval}, projected, not measured*"
    )
    needed, most = numbers.get("projected_memory_bytes"), numbers.get("projected_memory_bytes_high")
    fits = "" if numbers.get("fits", 1) else ": does not fit"
    return text + ("" if needed is None else f"; *{projected_bytes(needed, most)} of memory{fits}*")


def projected_bytes(needed: float, most: float | None) -> str:
    """With the error of the projection, if it states one."""
    return f"{PROJECTED_MARK}{bytes_text(needed)}" + ("" if most is None else f" ±{100 * (most / needed - 1):.0f}%")
