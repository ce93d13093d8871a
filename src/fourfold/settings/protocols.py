"""When and how a method is judged: on the held-out data of every context, as the setting lets it see them."""

from typing import Any

import torch
from torch import Tensor

from fourfold.benchmarks.interface import Benchmark
from fourfold.settings.stream import Context, Observation, Stream

EVALUATION_BATCH = 500  # pictures a forward pass; language models use their own batch


def matrix(method: Any, stream: Stream, benchmark: Benchmark, device: torch.device, after: int) -> list[dict[str, Any]]:
    """One entry for each context, as in ``Record.evaluations``; ``after`` is the number of phases learned so far."""
    if stream.test is None or benchmark.recipe.evaluation == 0 or not method.judged:
        return []
    data = stream.test.to(device)
    method.mode(training=False)
    with torch.no_grad():
        found = [_on_context(method, stream, context, data, benchmark, device, after) for context in stream.contexts]
    method.mode(training=True)
    return found


def _on_context(
    method: Any, stream: Stream, context: Context, data: Any, benchmark: Benchmark, device: torch.device, after: int
) -> dict[str, Any]:
    """The metric over a context's test samples, and the same with only the context's outputs allowed (masked)."""
    metric = benchmark.metric().to(device)
    wrong = _wrong_outputs(stream, context, device)
    masked = benchmark.metric().to(device) if wrong is not None else None
    relabel = None if context.relabel is None else context.relabel.to(device)
    assert context.test is not None
    size = EVALUATION_BATCH if "classification" in benchmark.facts else benchmark.recipe.batch
    parts = context.test.split(size)[: benchmark.recipe.evaluation]
    samples = 0
    tally = torch.zeros(2, 0, dtype=torch.long, device=device)  # right and all, of each class
    for part in parts:
        batch = benchmark.examination(data.batch(part.to(device)))
        told = (
            {"task": torch.full((len(part),), context.index, device=device)}
            if "task_labels_test" in stream.grants
            else {}
        )
        observation = Observation(batch.inputs, **told)
        scores = method.predict(observation).float()
        answers = judged(scores, method.mask(observation))
        targets = batch.targets if relabel is None else relabel[batch.targets]
        metric.update(answers, targets)
        if masked is not None:
            masked.update(scores.masked_fill(wrong, -torch.inf), targets)
        if "classification" in benchmark.facts:
            tally = _tallied(tally, batch.targets, answers.argmax(-1) == targets)
        samples += len(part)
    return {
        "after": after,
        "context": context.index,
        "metric": benchmark.metric_name,
        "value": float(metric.compute()),
        "samples": samples,
        "masked": None if masked is None else float(masked.compute()),
        "classes": [[label, *counts] for label, counts in enumerate(tally.T.tolist()) if counts[1]],
    }


def judged(scores: Tensor, mask: Tensor | None) -> Tensor:
    """The scores [batch, outputs] as they count: an output outside ``mask`` ([outputs] or [batch, outputs]) never wins.

    A mask without any output, as that of a learner that has seen nothing yet, rules nothing out.
    """
    if mask is None:
        return scores
    possible = mask | ~mask.any(-1, keepdim=True)
    return scores.masked_fill(~possible, -1e9)


def _tallied(tally: Tensor, labels: Tensor, right: Tensor) -> Tensor:
    """[2, classes]: the tally with a batch added; labels and right are [batch]."""
    size = max(tally.shape[1], int(labels.max()) + 1)
    counts = torch.stack([labels[right].bincount(minlength=size), labels.bincount(minlength=size)])
    counts[:, : tally.shape[1]] += tally
    return counts


def _wrong_outputs(stream: Stream, context: Context, device: torch.device) -> Tensor | None:
    """[outputs], true where an output cannot be right in the context; None if all can."""
    if context.outputs is None or len(context.outputs) == stream.outputs:
        return None
    return ~stream.task_outputs(device)[context.index]


# What each protocol does after a phase. Under "prequential" the judging is done while learning, step by step.
AFTER_A_PHASE = {"matrix": matrix}
