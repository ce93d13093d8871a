"""What language and speech models are given, checked by hand."""

import torch

from fourfold.benchmarks.language import halves
from fourfold.benchmarks.speech import Transcriber, whisper, with_previous
from fourfold.data.audio import speech


def test_text_to_text_reads_the_first_half_and_writes_the_second():
    tokens = torch.arange(10, 18)[None]  # 10 .. 17, followed by 18
    inputs, targets = halves(tokens, tokens + 1)
    assert inputs["source"].tolist() == [[10, 11, 12, 13]]
    assert inputs["previous"].tolist() == [[13, 14, 15, 16]]
    assert targets.tolist() == [[14, 15, 16, 17]]


def test_a_decoder_reads_the_start_and_then_its_own_targets():
    inputs = with_previous(torch.zeros(1, 2, 4), torch.tensor([[5, 6, 7]]), start=9)
    assert inputs["previous"].tolist() == [[9, 5, 6]]


def test_transcribing_with_a_cache_is_the_same_as_reading_everything_again():
    torch.manual_seed(0)
    model = whisper((8, 20), vocabulary=300, hidden=32, intermediate=64, layers=2, heads=2, written=5).eval()
    assert isinstance(model, Transcriber)
    features = torch.randn(2, 8, 20)
    with torch.no_grad():
        written = model(features)
        again = model(with_previous(features, written, model.start)).argmax(-1)
    assert written.shape == (2, 5)
    assert torch.equal(written, again)


def test_speech_has_its_full_shape_a_label_or_a_transcript_and_depends_on_the_seed():
    words = {"samples": 6, "classes_used": 3, "mels": 8, "frames": 40}
    labelled, again, other = (speech("", seed, **words) for seed in (0, 0, 1))
    batch = labelled.train.batch(torch.arange(6))
    assert batch.inputs.shape == (6, 8, 40)
    assert -1 <= batch.inputs.min() < 0 < batch.inputs.max() <= 1
    assert batch.targets.tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(labelled.train.inputs, again.train.inputs)
    assert not torch.equal(labelled.train.inputs, other.train.inputs)
    assert speech("", 0, **words, transcript=4).train.batch(torch.arange(2)).targets.shape == (2, 4)
