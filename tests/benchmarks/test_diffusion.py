"""Diffusion, flow and their losses by hand, and against the library's own schedulers."""

import math

import pytest
import torch

from fourfold.benchmarks import diffusion
from fourfold.benchmarks.multimodal import next_token
from fourfold.data.captions import captioned
from fourfold.data.tensors import Batch


def test_noise_and_velocity_by_hand():
    latents, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0)
    noisy, velocity = diffusion.diffuse(latents, noise, torch.tensor([0.64]))
    assert float(noisy) == pytest.approx(0.8 * 2 + 0.6 * -1)
    assert float(velocity) == pytest.approx(0.8 * -1 - 0.6 * 2)


def test_noise_and_velocity_are_those_of_the_library():
    scheduler = pytest.importorskip("diffusers").DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction"
    )
    latents, noise, times = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 500, 999])
    noisy, velocity = diffusion.diffuse(latents, noise, diffusion.kept_signal()[times])
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, times), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(velocity, scheduler.get_velocity(latents, noise, times), rtol=1e-4, atol=1e-5)


def test_signal_and_noise_are_found_again_from_velocity():
    latents, noise, kept = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2), torch.tensor(0.3)
    signal, found = diffusion.undo(*diffusion.diffuse(latents, noise, kept.expand(2)), kept)
    torch.testing.assert_close(signal, latents)
    torch.testing.assert_close(found, noise)


def test_the_loss_is_the_mean_squared_error_of_each_sample():
    outputs = (torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 2.0]]))
    assert diffusion.mean_squared_error(outputs, None, reduction="none").tolist() == [2.5, 2.0]
    assert float(diffusion.mean_squared_error(outputs, None)) == 2.25


def test_packing_is_that_of_the_library_and_can_be_undone():
    latents = torch.randn(2, 16, 8, 8)
    packed = diffusion.pack(latents)
    assert packed.shape == (2, 16, 64)
    assert torch.equal(diffusion.unpack(packed, 4), latents)
    pytest.importorskip("diffusers")
    from diffusers import FluxPipeline

    assert torch.equal(packed, FluxPipeline._pack_latents(latents, 2, 16, 8, 8))


def test_the_schedule_is_that_of_the_library():
    scheduler = pytest.importorskip("diffusers").FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    mu = 0.5 + (1024 - 256) * (1.15 - 0.5) / (4096 - 256)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 10, 10).tolist(), mu=mu)
    torch.testing.assert_close(diffusion.schedule(10, 1024), scheduler.sigmas[:10], rtol=1e-5, atol=1e-6)
    assert diffusion.schedule(2, 256).tolist() == pytest.approx([1, math.exp(0.5) / (math.exp(0.5) + 1)])


def small_flux(steps: int) -> diffusion.Flux:
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    shape = {"layers": 1, "single_layers": 1, "heads": 2, "head_size": 16, "axes": [4, 6, 6]}
    vae = {"vae_widths": [32, 32, 32, 32], "vae_layers": 1, "latent_channels": 16}
    clip = {"vocabulary": 100, "clip_hidden": 32, "clip_layers": 1, "clip_heads": 2}
    t5 = {"t5_vocabulary": 100, "t5_hidden": 32, "t5_intermediate": 32, "t5_layers": 1, "t5_heads": 2}
    return diffusion.flux(**shape, **vae, **clip, **t5, image_size=32, steps=steps)  # type: ignore[return-value]


def test_flux_makes_pictures_and_trains_on_straight_paths(monkeypatch: pytest.MonkeyPatch):
    network = small_flux(steps=2)
    own, noisy = diffusion.Flux.velocity, []
    monkeypatch.setattr(diffusion.Flux, "velocity", lambda self, x, *more: (noisy.append(x), own(self, x, *more))[1])
    sets = captioned("", 0, 2, 2, 32, 100, 8, 8)
    batch = sets.train.batch(torch.arange(2))
    assert batch.inputs["tokens"][:, -1].tolist() == [99, 99]
    pictures = network(batch.inputs)
    assert pictures.shape == (2, 3, 32, 32)
    assert 0 <= pictures.min() <= pictures.max() <= 1
    (term,) = diffusion.NoisyObjective(16, True, 0).terms(network, Batch(batch.inputs, batch.targets))
    predicted, wanted = network(term.inputs)
    latents = diffusion.encode(network.vae, batch.inputs["pictures"], term.inputs["sampling"])
    times = term.inputs["times"].view(-1, 1, 1, 1)
    torch.testing.assert_close(noisy[-1], (1 - times) * latents + times * term.inputs["noise"])
    torch.testing.assert_close(wanted, term.inputs["noise"] - latents)
    assert predicted.shape == wanted.shape
    term.loss_of((predicted, wanted), None).backward()
    assert all(p.grad is None for part in (network.vae, network.clip, network.t5) for p in part.parameters())
    assert any(p.grad is not None for p in network.transformer.parameters())


def test_each_step_draws_its_own_noise_and_the_same_again_from_its_state():
    objective = diffusion.NoisyObjective(4, False, 0)
    batch = Batch({"pictures": torch.zeros(2, 3, 16, 16)}, torch.zeros(2))
    first, second = (next(objective.terms(None, batch)).inputs for _ in range(2))  # type: ignore[arg-type]
    assert first["noise"].shape == (2, 4, 2, 2)
    assert not torch.equal(first["noise"], second["noise"])
    objective.load_state_dict({"drawn": 1})
    assert torch.equal(next(objective.terms(None, batch)).inputs["noise"], second["noise"])  # type: ignore[arg-type]


def test_llava_reads_a_picture_and_writes_the_next_token():
    inputs, targets = next_token({"pictures": torch.zeros(1, 3, 4, 4), "tokens": torch.tensor([[5, 6, 7]])})
    assert inputs["tokens"].tolist() == [[5, 6]]
    assert targets.tolist() == [[6, 7]]
