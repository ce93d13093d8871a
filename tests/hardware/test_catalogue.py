"""What every target of the catalogue must hold; a new YAML is tested by being there."""

import pytest

from fourfold.composition import compose, config_directory, plain
from fourfold.errors import Refused
from fourfold.hardware.catalogue import PRECISIONS, catalogue, recognises, targets_of

FOLDER = config_directory() / "hardware"
TARGETS = catalogue(FOLDER)
DEVICES = sorted(name for name, facts in TARGETS.items() if facts["match"] and not name.startswith("local/"))

# What the vendors' libraries call their devices.
CALLED = {
    "Tesla V100-SXM2-32GB": ["v100"],
    "Quadro RTX 8000": ["rtx8000"],
    "NVIDIA A100-SXM4-80GB": ["a100"],
    "NVIDIA A100-SXM4-40GB": ["a100_40gb"],
    "NVIDIA A100 80GB PCIe": ["a100_pcie"],
    "NVIDIA A100-PCIE-40GB": ["a100_40gb_pcie"],
    "NVIDIA L40S": ["l40s"],
    "NVIDIA H100 80GB HBM3": ["h100"],
    "NVIDIA H100 PCIe": ["h100_pcie"],
    "NVIDIA H200": ["h200"],
    "NVIDIA GH200 480GB": ["gh200"],
    "NVIDIA GH200 144G HBM3e": ["gh200_144gb"],
    "NVIDIA B200": ["b200"],
    "NVIDIA GB200": ["gb200"],
    "AMD Instinct MI100": ["mi100"],
    "AMD Instinct MI250X / MI250": ["mi250"],
    "AMD Instinct MI300X": ["mi300"],
    "AMD Instinct MI325X": ["mi325"],
    "AMD Instinct MI355X": ["mi355"],
    "Intel(R) Data Center GPU Max 1550": ["max1550"],
    "Intel(R) Arc(TM) Pro B70 Graphics": ["arc_b70"],
    "GAUDI2": ["gaudi2"],
    "GAUDI3": ["gaudi3"],
    "NVIDIA L40": [],
    "AMD Instinct MI300A": [],
    "NVIDIA H100 NVL": [],
}


@pytest.mark.parametrize("name", DEVICES)
class TestEveryDevice:
    def test_facts_are_complete_and_plausible(self, name: str) -> None:
        facts = TARGETS[name]
        assert 16e9 <= facts["memory"] <= 1e12
        assert 4e11 <= facts["bandwidth"] <= 2e13
        assert 75 <= facts["power"] <= 3000
        assert 5e9 <= facts["interconnect"]["node"] < facts["bandwidth"]
        assert facts["interconnect"]["network"] <= facts["interconnect"]["node"] * 2

    def test_peaks_are_of_what_is_offered_and_in_order(self, name: str) -> None:
        facts = TARGETS[name]
        peak = {key: value for key, value in facts["peak"].items() if value}
        offered = set(facts["offers"]) & set(PRECISIONS)
        assert set(peak) <= offered
        assert offered - set(peak) <= ({"fp32"} if facts["vendor"] == "habana" else set())  # which states none
        rising = [peak[key] for key in ("fp32", "tf32", "fp16", "fp8") if key in peak]
        assert rising == sorted(rising)
        if "bf16" in peak and "fp16" in peak:
            assert 0.5 <= peak["bf16"] / peak["fp16"] <= 1

    def test_peaks_are_dense(self, name: str) -> None:
        """Each step to a narrower tensor type about doubles the dense rate; a sparse figure would quadruple it."""
        peak = TARGETS[name]["peak"]
        for wide, narrow in (("tf32", "fp16"), ("fp16", "fp8")):
            if peak.get(wide) and peak.get(narrow):
                assert peak[narrow] / peak[wide] == pytest.approx(2, rel=0.05)

    def test_intensity_is_that_of_an_accelerator(self, name: str) -> None:
        """FLOP a byte at which compute and memory balance: tens to several hundreds for 16-bit products."""
        facts = TARGETS[name]
        best = max(facts["peak"].get("bf16") or 0, facts["peak"].get("fp16") or 0)
        assert 50 <= best / facts["bandwidth"] <= 700

    def test_it_asks_a_scheduler_for_its_devices(self, name: str) -> None:
        cell = plain(compose([f"hardware={name}", "hardware.devices=2", "hardware.nodes=3"]))
        request = cell["hardware"]["launcher"]
        assert request["gres"].endswith(":2")
        assert (request["nodes"], request["tasks_per_node"]) == (3, 2)

    def test_some_name_is_recognised_as_it(self, name: str) -> None:
        assert [name] in CALLED.values()


# Compute units (SMs, CUs, cores) x dense FLOP of each a clock x clock (GHz), from the vendors' architecture papers:
# what a stated peak must come out as. (precision, units, FLOP, clock)
BY_CLOCK = {
    "v100": [("fp32", 80, 128, 1.53), ("fp16", 80, 1024, 1.53)],
    "rtx8000": [("fp32", 72, 128, 1.77), ("fp16", 72, 1024, 1.77)],
    "a100": [("fp32", 108, 128, 1.41), ("tf32", 108, 1024, 1.41), ("bf16", 108, 2048, 1.41)],
    "l40s": [("fp32", 142, 256, 2.52), ("bf16", 142, 1024, 2.49), ("fp8", 142, 2048, 2.52)],
    "h100": [("fp32", 132, 256, 1.98), ("tf32", 132, 2048, 1.83), ("bf16", 132, 4096, 1.83), ("fp8", 132, 8192, 1.83)],
    "h100_pcie": [("fp32", 114, 256, 1.755), ("bf16", 114, 4096, 1.62)],
    "mi100": [("fp32", 120, 256, 1.502), ("bf16", 120, 512, 1.502), ("fp16", 120, 1024, 1.502)],
    "mi250": [("fp32", 104, 256, 1.7), ("bf16", 104, 1024, 1.7)],  # of one die
    "mi300": [("fp32", 304, 256, 2.1), ("bf16", 304, 2048, 2.1), ("fp8", 304, 4096, 2.1)],
    "mi355": [("fp32", 256, 256, 2.4), ("bf16", 256, 4096, 2.4), ("fp8", 256, 8192, 2.4)],
    "max1550": [("fp32", 128, 256, 1.6), ("bf16", 128, 4096, 1.6)],
    "arc_b70": [("fp32", 32, 256, 2.8), ("bf16", 32, 2048, 2.8)],
}
# Bits of the memory's bus x its rate (Gb/s a pin).
BY_BUS = {
    "v100": (4096, 1.757), "rtx8000": (384, 14), "a100": (5120, 3.186), "a100_40gb": (5120, 2.43),
    "a100_pcie": (5120, 3.024), "l40s": (384, 18), "h100": (5120, 5.235), "h100_pcie": (5120, 3.2),
    "h200": (6144, 6.25), "gh200": (6144, 5.2), "mi100": (4096, 2.4), "mi250": (4096, 3.2), "mi300": (8192, 5.2),
    "mi325": (8192, 6.0), "mi355": (8192, 8.0), "max1550": (8192, 3.2), "arc_b70": (256, 19),
}  # fmt: skip
UNLIKE_HALVES = {"gaudi3": "fp8 runs no faster than bf16 there"}


@pytest.mark.parametrize("name", BY_CLOCK)
def test_a_peak_is_units_times_work_times_clock(name: str) -> None:
    for precision, units, work, clock in BY_CLOCK[name]:
        assert TARGETS[name]["peak"][precision] == pytest.approx(units * work * clock * 1e9, rel=0.015), precision


@pytest.mark.parametrize("name", BY_BUS)
def test_a_bandwidth_is_bits_times_rate(name: str) -> None:
    bits, rate = BY_BUS[name]
    assert TARGETS[name]["bandwidth"] == pytest.approx(bits / 8 * rate * 1e9, rel=0.025)


@pytest.mark.parametrize("name", DEVICES)
def test_16_bits_are_16_bits_and_8_are_twice_as_fast(name: str) -> None:
    peak = TARGETS[name]["peak"]
    if peak.get("bf16") and peak.get("fp16") and name != "mi100":  # whose bf16 is at half rate
        assert peak["bf16"] == peak["fp16"]
    if peak.get("bf16") and peak.get("fp8") and name not in UNLIKE_HALVES:
        assert peak["fp8"] / peak["bf16"] == pytest.approx(2, rel=0.02)


def test_variants_of_a_chip_have_its_rates() -> None:
    for chip, variants in {"a100": ("a100_40gb", "a100_pcie", "a100_40gb_pcie"), "h100": ("h200", "gh200"),
                           "gh200": ("gh200_144gb",), "mi300": ("mi325",)}.items():  # fmt: skip
        for variant in variants:
            assert TARGETS[variant]["peak"] == TARGETS[chip]["peak"]
    for smaller, larger in (("b200", "gb200"), ("h100_pcie", "h100"), ("a100_40gb_pcie", "a100")):
        assert TARGETS[smaller]["power"] < TARGETS[larger]["power"]
        assert TARGETS[smaller]["peak"]["fp32"] <= TARGETS[larger]["peak"]["fp32"]


@pytest.mark.parametrize("called", CALLED)
def test_a_device_s_own_name_leads_to_one_target(called: str) -> None:
    assert [target for target in targets_of(called, FOLDER) if not target.startswith("local/")] == CALLED[called]


def test_names_are_compared_by_whole_words() -> None:
    assert recognises(["H200"], "NVIDIA H200")
    assert not recognises(["H200"], "NVIDIA GH200 480GB")
    assert recognises(["max 1550"], "Intel(R) Data Center GPU Max 1550")


def test_the_catalogue_reads_what_hydra_composes() -> None:
    for name in ("gb200", "a100_40gb_pcie", "mi325"):
        composed, own = plain(compose([f"hardware={name}"]))["hardware"], TARGETS[name]
        for key in ("memory", "bandwidth", "power", "peak", "interconnect", "match", "vendor"):
            assert own[key] == composed[key], (name, key)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["hardware=a100", "hardware.devices=2", "hardware.launcher.gres=gpu:a100:4"], "asks for 4 a node, but"),
        (
            ["hardware=a100", "hardware.launcher.gres=gpu:h100:1"],
            "than a100; choose hardware=h100, or leave the kind out: gpu:1",
        ),
        (["hardware=a100", "hardware.launcher.tasks_per_node=2"], "contradicts hardware.devices=1"),
        (["hardware=a100", "hardware.launcher.nodes=2"], "contradicts hardware.nodes=1"),
    ],
)
def test_a_request_that_contradicts_its_hardware_is_refused(words: list[str], what: str) -> None:
    with pytest.raises(Refused, match=what):
        compose(words)


@pytest.mark.parametrize(
    "gres", ["'gpu:2'", "'gpu:a100:2'", "'gpu:nvidia_a100_80gb:2'", "'gpu:a100:2,shard:1'", "null"]
)
def test_a_site_may_name_its_gres_as_it_likes(gres: str) -> None:
    compose(["hardware=a100", "hardware.devices=2", f"hardware.launcher.gres={gres}"])
