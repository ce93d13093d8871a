"""Asked and found must agree. Devices that are not here are played by stand-ins for torch's modules."""

from types import SimpleNamespace

import pytest
import torch

from fourfold.composition import compose, plain
from fourfold.errors import Unavailable
from fourfold.hardware import device as devices
from fourfold.hardware.device import acquire


def hardware(*words: str) -> dict:
    return plain(compose(list(words)))["hardware"]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch):
    """Lets a machine have ``count`` devices of a name."""

    def played(name: str, count: int = 1, backend: str = "cuda") -> None:
        module = SimpleNamespace(
            get_device_name=lambda index: name,
            device_count=lambda: count,
            get_device_properties=lambda index: SimpleNamespace(total_memory=80 * 10**9),
        )
        monkeypatch.setattr(devices, "present_backend", lambda: backend)
        monkeypatch.setattr(torch, "get_device_module", lambda kind: module)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))

    return played


def test_the_asked_device_is_found_by_its_name(play) -> None:
    play("NVIDIA A100-SXM4-80GB")
    found = acquire(hardware("hardware=a100"))
    assert (found.kind, found.name, found.accelerator) == ("cuda", "NVIDIA A100-SXM4-80GB", True)
    assert "tf32" in found.offers


def test_another_model_is_not_taken_for_it(play) -> None:
    play("NVIDIA H100 80GB HBM3", count=2)
    with pytest.raises(Unavailable, match=r"hardware=a100 .* here is 2 x NVIDIA H100 80GB HBM3"):
        acquire(hardware("hardware=a100"))


def test_amd_is_not_nvidia_though_torch_calls_both_cuda(play) -> None:
    play("AMD Instinct MI300X", backend="hip")
    assert acquire(hardware("hardware=mi300")).backend == "hip"
    with pytest.raises(Unavailable):
        acquire(hardware("hardware=h100"))


def test_too_few_devices_are_unavailable(play) -> None:
    play("NVIDIA A100-SXM4-80GB", count=2)
    with pytest.raises(Unavailable, match="asks for 4 x"):
        acquire(hardware("hardware=a100", "hardware.devices=4"))


def test_auto_takes_what_is_here_and_knows_its_precisions(play) -> None:
    play("NVIDIA H100 80GB HBM3")
    found = acquire(hardware("hardware=auto"))
    assert (found.kind, found.name) == ("cuda", "NVIDIA H100 80GB HBM3")
    assert {"fp8", "tf32", "bf16"} <= set(found.offers)


def test_a_stand_in_is_a_cpu_with_the_other_s_facts() -> None:
    found = acquire(hardware("hardware=mi300", "hardware.stand_in=true"))
    assert (found.kind, found.evidence, found.accelerator) == ("cpu", "simulated", False)
    assert "standing in for mi300" in found.name
