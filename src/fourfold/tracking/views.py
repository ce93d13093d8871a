"""How MLflow's page shows the runs: a shared view with the four axes as columns.

MLflow keeps shared views as tags of the experiment, as its own Share button does; a version that does not
know the format shows its usual table.
"""

import json

VIEW_KEY = "four_axes"
VIEW_TAGS = ("benchmark", "hardware", "setting", "method", "seed", "state", "unit")
VIEW_METRICS = ("units_per_second", "average_accuracy", "forgetting_max", "last_loss")


def experiment_tags() -> dict[str, str]:
    """The tags of the experiment: runs are training runs, and the shared view."""
    columns = [*(f"tags.`{tag}`" for tag in VIEW_TAGS), *(f"metrics.`{metric}`" for metric in VIEW_METRICS)]
    view = {
        "searchFilter": "tags.kind = 'cell'",
        "orderByKey": "tags.`benchmark`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": ["attributes.`Run Name`", *columns],
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW_KEY}": json.dumps(view),
    }


def table_address(server: str, experiment_id: str) -> str:
    """Of the page with the table of cells."""
    return f"{server}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW_KEY}"


def compare_address(server: str, experiment_id: str, runs: list[str]) -> str:
    """Of the page that compares runs side by side."""
    from urllib.parse import quote

    return f"{server}/#/compare-runs?runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment_id]))}"
