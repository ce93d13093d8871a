"""Whether more of a figure is better: what values are chosen by has to say so."""

from fourfold.metrics import MATRIX_FIGURES, TRANSFER_FIGURES, TRANSFERS

# The metrics of evaluations: 1 where more is better, -1 where less is.
METRICS = {"accuracy": 1, "auroc": 1, "perplexity": -1, "nats": -1, "squared error": -1, "absolute error": -1}
LOSSES = ("forgetting_max", "forgetting_max_with_last", "forgetting_last")
PREDICTIONS = ("online_accuracy", "lca_10", "cumulative_accuracy")
NOT_LEARNED = "untrained_accuracy"


def directions() -> dict[str, int]:
    """Every figure of how well a cell has learned: 1 where more is better, -1 where less is."""
    found: dict[str, int] = {}
    for metric, sign in METRICS.items():
        found |= {name.replace("accuracy", metric): sign for name in MATRIX_FIGURES if name != NOT_LEARNED}
    found |= {name: -1 if name in LOSSES else 1 for name in TRANSFER_FIGURES}
    found |= {f"{name}_masked": sign for name, sign in found.items() if not name.endswith("nats")}
    found |= {f"{name}_nats": found[name] for name in TRANSFERS}
    found |= dict.fromkeys(("amca", "sample_weighted_accuracy", *PREDICTIONS), 1)
    return found | {"cumulative_squared_error": -1, "last_loss": -1}
