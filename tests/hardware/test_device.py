"""Asked and found must agree. Devices that are not here are played by stand-ins for torch's modules."""

import re
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from fourfold.composition import compose, plain
from fourfold.errors import Refused, Unavailable
from fourfold.hardware.device import acquire
from fourfold.hardware.engine import Engine
from fourfold.hardware.vendor import vendor
from fourfold.metrics.utilisation import utilisation_figures
from records import make_record


def hardware(*words: str) -> dict:
    return plain(compose(list(words)))["hardware"]


class Played:
    """What torch's module of a device type says on a machine with these devices; ``broken`` fails as a driver does."""

    def __init__(self, names: list[str], memory: float, broken: bool = False) -> None:
        self.names, self.memory, self.broken = names, memory, broken

    def is_available(self) -> bool:
        return bool(self.names)

    def device_count(self) -> int:
        return len(self.names)

    def get_device_name(self, index: int = 0) -> str:
        if self.broken:
            raise RuntimeError("driver error: the device fell off the bus\nmore of it")
        return self.names[index]

    def get_device_properties(self, index: int = 0) -> Any:
        return SimpleNamespace(total_memory=int(self.memory), name=self.names[index])

    def get_device_capability(self, index: int = 0) -> tuple[int, int]:
        return (9, 0)

    def set_device(self, index: int) -> None:
        self.chosen = index


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch):
    """Lets a machine have devices of a backend, with what its vendor's libraries would answer."""

    def played(*names: str, backend: str = "cuda", memory: float = 80e9, broken: bool = False) -> Played:
        module = Played(list(names), memory, broken)
        if backend in ("cuda", "hip"):
            for name in ("is_available", "device_count", "get_device_name", "get_device_capability"):
                monkeypatch.setattr(torch.cuda, name, getattr(module, name))
            monkeypatch.setattr(torch.cuda, "get_device_properties", module.get_device_properties)
            monkeypatch.setattr(torch.version, "hip", "6.4.43484" if backend == "hip" else None)
        elif backend == "xpu":
            monkeypatch.setattr(torch, "xpu", module)
        else:
            for name in ("habana_frameworks", "habana_frameworks.torch", "habana_frameworks.torch.core"):
                monkeypatch.setitem(sys.modules, name, ModuleType(name))
            monkeypatch.setattr(torch, "hpu", module, raising=False)
        real = torch.get_device_module
        mine = {"xpu": module, "hpu": module}
        monkeypatch.setattr(
            torch, "get_device_module", lambda kind: mine[kind] if kind == backend and kind in mine else real(kind)
        )
        return module

    return played


VENDORS = {  # hardware: (what the vendor's library calls the device, backend, torch's kind, bytes)
    "a100": ("NVIDIA A100-SXM4-80GB", "cuda", "cuda", 85.0e9),
    "mi300": ("AMD Instinct MI300X", "hip", "cuda", 205.8e9),
    "max1550": ("Intel(R) Data Center GPU Max 1550", "xpu", "xpu", 131.0e9),
    "gaudi2": ("GAUDI2", "hpu", "hpu", 101.6e9),
}


@pytest.mark.parametrize("target", VENDORS)
def test_each_vendor_s_device_is_found_by_its_name(play, target: str) -> None:
    name, backend, kind, memory = VENDORS[target]
    play(name, name, backend=backend, memory=memory)
    found = acquire(hardware(f"hardware={target}", "hardware.devices=2"))
    assert (found.kind, found.backend, found.name, found.count) == (kind, backend, name, 2)
    assert found.accelerator
    assert found.memory == int(memory)
    assert found.torch(1) == torch.device(kind, 1)
    here = acquire(hardware("hardware=auto"))
    assert (here.backend, here.name) == (backend, name)
    assert set(vendor(backend).offers) <= set(here.offers)
    assert here.evidence == "measured"


@pytest.mark.parametrize("target", VENDORS)
def test_each_vendor_s_library_may_be_absent(target: str) -> None:
    with pytest.raises(Unavailable, match=rf"hardware={target} asks for 1 x .* here is only a CPU; .*hardware=auto"):
        acquire(hardware(f"hardware={target}"))


@pytest.mark.parametrize("target", VENDORS)
def test_a_driver_that_fails_makes_the_device_unavailable(play, target: str) -> None:
    name, backend, _, memory = VENDORS[target]
    play(name, backend=backend, memory=memory, broken=True)
    with pytest.raises(Unavailable, match=f"hardware={target}: its driver or library fails: .*fell off the bus$"):
        acquire(hardware(f"hardware={target}"))


@pytest.mark.parametrize("target", VENDORS)
def test_fp32_is_exact_and_tf32_only_where_it_is_offered(play, target: str) -> None:
    name, backend, _, memory = VENDORS[target]
    play(name, backend=backend, memory=memory)
    before = torch.backends.cudnn.allow_tf32
    try:
        vendor(backend).set_precision("tf32")
        assert torch.get_float32_matmul_precision() == ("high" if backend == "cuda" else "highest")
        vendor(backend).set_precision("fp32")
        assert torch.get_float32_matmul_precision() == "highest"
        if backend == "cuda":
            assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("target", ["max1550", "gaudi2"])
def test_fabric_is_taught_the_devices_that_it_does_not_know(play, target: str) -> None:
    name, backend, kind, memory = VENDORS[target]
    play(name, backend=backend, memory=memory)
    engine = Engine(acquire(hardware(f"hardware={target}")), "bf16", "auto")
    assert engine.fabric.device == torch.device(kind, 0) == engine.device
    assert engine.fabric.strategy.precision.device == kind  # autocast of the device, not of cuda


def test_another_model_is_not_taken_for_it_and_is_named(play) -> None:
    play("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3")
    with pytest.raises(Unavailable, match=r"hardware=a100 .* here is 2 x NVIDIA H100 80GB HBM3 \(hardware=h100\)"):
        acquire(hardware("hardware=a100"))


def test_a_node_of_two_models_is_not_one_of_either(play) -> None:
    play("NVIDIA A100-SXM4-80GB", "NVIDIA A100-PCIE-40GB")
    with pytest.raises(Unavailable):
        acquire(hardware("hardware=a100", "hardware.devices=2"))


def test_a_slice_of_a_device_is_not_the_device(play) -> None:
    play("NVIDIA A100-SXM4-80GB MIG 1g.10gb", memory=10.2e9)
    with pytest.raises(Unavailable, match="has 10 GB of 80"):
        acquire(hardware("hardware=a100"))


def test_amd_is_not_nvidia_though_torch_calls_both_cuda(play) -> None:
    play("AMD Instinct MI300X", backend="hip", memory=205.8e9)
    assert acquire(hardware("hardware=mi300")).backend == "hip"
    with pytest.raises(Unavailable):
        acquire(hardware("hardware=h100"))


def test_too_few_devices_are_unavailable(play) -> None:
    play("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB")
    with pytest.raises(Unavailable, match="asks for 4 x"):
        acquire(hardware("hardware=a100", "hardware.devices=4"))


def test_auto_knows_the_precisions_of_what_is_here(play) -> None:
    play("NVIDIA H100 80GB HBM3")
    assert {"fp8", "tf32", "bf16"} <= set(acquire(hardware("hardware=auto")).offers)


def test_auto_takes_the_peak_of_what_it_recognises(play) -> None:
    play("NVIDIA H100 80GB HBM3")
    found = acquire(hardware("hardware=auto"))
    assert (found.target, found.peak["bf16"]) == ("h100", 989.4e12)
    record = make_record(recipe={"precision": "bf16"}, device=found.as_dict())
    record.config["hardware"]["peak"] = dict.fromkeys(("fp32", "bf16"))
    record.measurements["flops"] = {"model": 1e9, "executed": None}
    assert utilisation_figures(record, rate=98940.0)["mfu"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "memory"), [("NVIDIA A100-SXM4-80GB MIG 1g.10gb", 10.2e9), ("NVIDIA Something New", 80e9)]
)
def test_auto_knows_no_peak_of_a_slice_or_of_a_stranger(play, name: str, memory: float) -> None:
    play(name, memory=memory)
    found = acquire(hardware("hardware=auto"))
    assert (found.target, found.peak) == (None, {})


def test_a_backend_that_does_not_exist_is_refused() -> None:
    with pytest.raises(Refused, match=r"hardware.backend=rocm: choose one of auto, cpu, cuda, hip"):
        acquire(hardware("hardware=auto", "hardware.backend=rocm"))


def test_a_stand_in_is_a_cpu_with_the_other_s_facts() -> None:
    found = acquire(hardware("hardware=mi300", "hardware.stand_in=true"))
    assert (found.kind, found.evidence, found.accelerator) == ("cpu", "simulated", False)
    assert "standing in for mi300" in found.name


@pytest.mark.parametrize(
    ("nodes", "started", "said"),
    [
        (1, "3", "needs 2 processes, one for each device, and here are 3; run.py starts as many itself"),
        (2, "1", "needs 4 processes, one for each device, and here are 1; several nodes take a sweep (-m) with hydra/"),
    ],
)
def test_another_number_of_processes_than_devices_says_what_starts_them(
    nodes: int, started: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", started)
    device = acquire(hardware("hardware=cpu", "hardware.devices=2"))
    with pytest.raises(Refused, match=re.escape(said)):
        Engine(device, "fp32", "ddp", nodes, "fp32")


def test_srun_on_the_machine_is_no_reason_to_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's hint to put srun before the command is wrong here: run.py starts the ranks."""
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Engine(acquire(hardware("hardware=cpu")), "fp32", "auto")
