"""FLOP of a training step against closed forms and published counts."""

from typing import Any

import pytest
import torch
from torch import nn

from fourfold.benchmarks import interface as benchmarks
from fourfold.composition import compose, plain
from fourfold.measure.flops import OperatorTrace, StepTrace
from fourfold.recipe import resolve
from fourfold.settings import stream as streams
from fourfold.tracing import trace_step, work

PICTURES = ["benchmark.data.samples=4", "benchmark.data.classes_used=4", "batch=2"]
WORDS = ["benchmark.data.megabytes=0.1", "batch=1"]


def parts(*words: str) -> tuple[Any, ...]:
    cell = plain(compose(["hardware=cpu", "precision=fp32", *words]))
    recipe = resolve(cell, accelerator=False)
    benchmark = benchmarks.build(cell, recipe)
    return cell, recipe, benchmark, streams.build(cell["setting"], benchmark, 0)


def trace(*words: str) -> StepTrace:
    return trace_step(*parts(*words))


def layers_of(hidden: int, intermediate: int, key_value: int, gates: int) -> int:
    """Parameters of the products of one transformer layer: queries and outputs, keys and values, feed-forward."""
    return 2 * hidden**2 + 2 * hidden * key_value + gates * hidden * intermediate


@pytest.mark.parametrize(
    ("size", "hidden", "intermediate", "key_value", "layers", "vocabulary"),
    [
        ("8b", 4096, 14336, 1024, 32, 128256),
        pytest.param("7b", 4096, 11008, 4096, 32, 32000, marks=pytest.mark.slow),
        pytest.param("70b", 8192, 28672, 1024, 80, 128256, marks=pytest.mark.slow),
    ],
)
def test_llama_by_its_closed_form(
    size: str, hidden: int, intermediate: int, key_value: int, layers: int, vocabulary: int
) -> None:
    """6 N + 12 L H s a token, N the parameters of all products (Chowdhery et al. 2022, appendix B)."""
    length = 512
    found = trace("benchmark=llama", "scale=full", f"size={size}", f"benchmark.data.sequence={length}", *WORDS)
    products = layers * layers_of(hidden, intermediate, key_value, 3) + hidden * vocabulary
    assert found.flops_per_unit == pytest.approx(6 * products + 12 * layers * hidden * length, rel=0.001)
    assert found.by_kind()["batched_matmul"] / found.units == pytest.approx(12 * layers * hidden * length, rel=0.01)


def test_bert_by_its_closed_form() -> None:
    """As above for each of 512 tokens; the head is one hidden layer and the vocabulary."""
    found = trace("benchmark=bert", "scale=full", *WORDS)
    products = 12 * layers_of(768, 3072, 768, 2) + 768**2 + 768 * 30522
    assert found.flops_per_unit == pytest.approx(512 * (6 * products + 12 * 12 * 768 * 512), rel=0.005)


def test_whispers_encoder_by_its_closed_form() -> None:
    """Two convolutions over 3000 frames, of stride 1 and 2, then four layers over 1500 positions."""
    found = trace("benchmark=whisper", "scale=full", *PICTURES)
    first, second = 3000 * 3 * 80 * 384, 1500 * 3 * 384 * 384
    layers = 1500 * 4 * (layers_of(384, 1536, 384, 2) + 2 * 384 * 1500)
    head = 1500 * 384 * 256
    assert found.flops_per_unit == pytest.approx(6 * (second + layers + head) + 4 * first, rel=0.005)


@pytest.mark.parametrize(
    ("name", "forward", "stem"),
    [
        ("resnet", 4.089e9, 112**2 * 64 * 3 * 49),  # torchvision's model card of ResNet-50: 4.09 GMAC
        ("convnext", 34.4e9, 56**2 * 192 * 3 * 16),  # Liu et al. 2022, table 1: ConvNeXt-L, 34.4 GMAC
    ],
)
def test_pictures_by_published_counts(name: str, forward: float, stem: int) -> None:
    """Forward and two backward products, less the gradient of the pictures, which nobody needs."""
    found = trace(f"benchmark={name}", "scale=full", *PICTURES)
    assert found.flops_per_unit == pytest.approx(2 * (3 * forward - stem), rel=0.01)


def test_grouped_and_transposed_convolutions_by_hand() -> None:
    """[1, 4, 8, 8] to 8 channels by 3x3 in 2 groups: 64 * 8 * 2 * 9 products forward, and each way back."""
    grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2, device="meta")
    inputs = torch.empty(1, 4, 8, 8, device="meta", requires_grad=True)
    with OperatorTrace() as found:
        grouped(inputs).sum().backward()
    assert StepTrace(found.operators(), 1).by_kind() == {"convolution": 3 * 2 * 64 * 8 * 2 * 9}
    upwards = nn.ConvTranspose2d(4, 8, 2, stride=2, device="meta")
    with OperatorTrace() as found:
        upwards(inputs).sum().backward()
    assert StepTrace(found.operators(), 1).by_kind() == {"convolution": 3 * 2 * 64 * 4 * 8 * 4}


def test_complex_products_count_four_times_and_views_move_nothing() -> None:
    values = torch.empty(2, 3, dtype=torch.complex64, device="meta")
    with OperatorTrace() as found:
        values @ values.T
    view, product = found.operators()
    assert (product.flops, product.bytes, product.dtype) == (8 * 2 * 3 * 2, 8 * (6 + 6 + 4), "complex64")
    assert (view.kind, view.flops, view.bytes) == ("other", 0, 0)


def test_a_method_of_its_own_is_counted_beside_plain_training() -> None:
    ewc = work(*parts("benchmark=digits", "setting=class_incremental", "method=ewc"))
    finetune = work(*parts("benchmark=digits", "setting=class_incremental"))
    assert ewc["model"] == finetune["model"] == finetune["executed"] > 0
    replay = work(*parts("benchmark=digits", "setting=class_incremental", "method=replay"))
    assert replay["model"] == replay["executed"] == finetune["model"]  # its memory is empty at the first step


def test_text_that_is_written_token_by_token_by_its_closed_form() -> None:
    """2 N for each token read or written, 4 H c L for attention to c tokens, and the vocabulary once a new token."""
    prompt, new, hidden, layers, vocabulary = 64, 8, 128, 2, 1000
    words = ["benchmark=llama", "method=inference", "scale=smoke", f"benchmark.data.sequence={prompt}"]
    found = work(*parts(*words, f"method.new_tokens={new}", *WORDS))
    each = 2 * layers * layers_of(hidden, 384, 64, 3)
    attention = 4 * hidden * layers * (prompt**2 + sum(prompt + step for step in range(1, new)))
    whole = (prompt + new - 1) * each + attention + new * 2 * hidden * vocabulary
    assert found["model"] == found["executed"] == pytest.approx(whole / new, rel=0.005)


def test_what_goes_on_until_a_value_says_otherwise_cannot_be_counted() -> None:
    """As a sum whose terms are added while they are large."""
    term = torch.ones(4, device="meta")

    def add_up() -> None:
        nonlocal term
        while not bool((term.sum() < 1e-3).item()):
            term = term / 2

    with OperatorTrace(), pytest.raises(RuntimeError, match="until a value says otherwise"):
        add_up()


def test_rlhf_counts_writing_judging_and_learning() -> None:
    """PPO by hand, a multilayer of matrices N and a head V: the policy writes; policy, first policy, reward and value
    see the whole text once; each pass goes forward and backward through policy and value.
    """
    words = ("benchmark=pythia", "batch=2", "benchmark.data.megabytes=0.1", "benchmark.data.sequence=16")
    one, two = (
        work(*parts(*words, "method=rlhf", "method.new_tokens=4", f"method.passes={passes}"))["executed"]
        for passes in (1, 2)
    )
    forward = parts(*words[:2], "benchmark.data.megabytes=0.1", "benchmark.data.sequence=20")
    train = trace_step(*forward)
    a_pass = two - one
    # Policy and value model are two networks of one size: a pass is about twice a training step of 20 tokens, less the
    # head of the one that only judges.
    a_step = train.flops_per_unit * 20 / 4
    assert 1.4 * a_step < a_pass < 2 * a_step
    assert one > a_pass


def test_vjepa_by_its_closed_form() -> None:
    """Student over what is shown, target over all patches, predictor over both, for two masks; thrice for what learns.

    64 x 64 pixels of 16, 8 frames of 2: 64 patches of 1536 numbers.
    """
    cell = parts("benchmark=vjepa", "batch=2")
    found = trace_step(*cell)
    layer = lambda hidden, tokens: 2 * tokens * (4 * hidden**2 + 8 * hidden**2) + 4 * tokens**2 * hidden  # noqa: E731
    target = 2 * 64 * 1536 * 64 + 2 * layer(64, 64)
    lowest = 2 * target  # a batch of 2, the target alone
    most = lowest + 2 * 2 * 3 * (2 * 64 * 1536 * 64 + 2 * layer(64, 64) + 2 * layer(48, 128) + 4 * 128 * 64 * 48)
    assert lowest < found.flops < most
    assert found.flops > lowest + 2 * 2 * 2 * 2 * 64 * 1536 * 64, "both embeddings of the student, forward and weights"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet", "regnet", "focalnet", "t5", "reformer", "opt", "rwkv", "mistral", "llama4", "pythia", "dinov2",
     "diffusion", "flux", "llava", "pna", "dlrm", "fno", "gflownet", "whisper_transcribe"],
)  # fmt: skip
def test_every_workload_is_counted(name: str) -> None:
    found = work(*parts(f"benchmark={name}"))
    assert found["reason"] is None
    assert found["model"] > 0
    assert found["model"] == pytest.approx(sum(found["by_kind"].values()))
    assert found["executed"] > 0


def test_a_kernel_counts_what_it_says() -> None:
    assert work(*parts("benchmark=matmul", "method=execute"))["model"] == pytest.approx(1.0)
