"""Solutions of a differential equation, computed when asked for: real physics that needs no download."""

import torch
from torch import Tensor

from fourfold.data.tensors import Sets, TensorData
from fourfold.randomness import generator

DIFFUSION, TIME_STEP = 2e-3, 0.1


def allen_cahn(data_dir: str, seed: int, samples: int, size: int, steps: int) -> Sets:
    """Random smooth periodic fields [1, size, size] and what they become under u_t = e Laplace(u) + u - u^3.

    ``steps`` time steps of 0.1, diffusion implicit in Fourier space, reaction explicit. A tenth is for testing.
    """
    draw = generator(seed, "fields")
    frequencies = torch.fft.fftfreq(size, 1 / size)
    squares = (2 * torch.pi) ** 2 * (frequencies[:, None].square() + torch.fft.rfftfreq(size, 1 / size).square())
    white = torch.fft.rfft2(torch.randn(samples, size, size, generator=draw))
    begun = torch.fft.irfft2(white / (squares + 7.0**2), s=(size, size))
    begun = begun / begun.flatten(1).std(1).clamp(min=1e-8)[:, None, None]
    ended = torch.cat([evolve(part, squares, steps) for part in begun.split(64)])
    kept = samples * 9 // 10 or 1
    train = TensorData(begun[:kept, None], ended[:kept, None])
    test = TensorData(begun[kept if kept < samples else 0 :, None], ended[kept if kept < samples else 0 :, None])
    return Sets(train, test, 1, (1, size, size))


def evolve(fields: Tensor, squares: Tensor, steps: int) -> Tensor:
    """Fields [batch, size, size] after ``steps``; ``squares`` are the squared wave numbers of rfft2."""
    for _ in range(steps):
        waves = torch.fft.rfft2(fields + TIME_STEP * (fields - fields**3))
        fields = torch.fft.irfft2(waves / (1 + TIME_STEP * DIFFUSION * squares), s=fields.shape[-2:])
    return fields
