"""How MLflow's page shows the runs: a shared view with the four axes as columns, and charts over them.

MLflow keeps shared views as tags of the experiment, as its own Share button does; a version that does not
know the format shows its usual table.
"""

import json
from collections.abc import Sequence
from typing import Any

VIEW_KEY, SECTION = "four_axes", "fourfold"
VIEW_TAGS = ("benchmark", "hardware", "setting", "method", "seed", "state", "unit")
VIEW_METRICS = ("units_per_second", "average_accuracy", "forgetting_max", "last_loss")


def experiment_tags() -> dict[str, str]:
    """The tags of the experiment: runs are training runs, and the shared view."""
    columns = [*(f"tags.`{tag}`" for tag in VIEW_TAGS), *(f"metrics.`{metric}`" for metric in VIEW_METRICS)]
    charts = [
        parallel_chart("the four axes and the rate", VIEW_TAGS[:4], ["units_per_second"]),
        parallel_chart("the four axes and the accuracy", VIEW_TAGS[:4], ["average_accuracy"]),
        *(bar_chart(metric) for metric in VIEW_METRICS),
        line_chart("learning/loss"),
    ]
    view = {
        "searchFilter": "tags.kind = 'cell'",
        "orderByKey": "tags.`benchmark`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": ["attributes.`Run Name`", *columns],
        "compareRunCharts": charts,
        "compareRunSections": [{"uuid": SECTION, "name": "Fourfold", "display": True, "isReordered": False}],
        "isAccordionReordered": True,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW_KEY}": json.dumps(view),
    }


def bar_chart(metric: str) -> dict[str, Any]:
    """A metric of each run, as MLflow's page keeps such a chart; likewise the next two."""
    return {**_chart("BAR", metric), "metricKey": metric}


def line_chart(metric: str) -> dict[str, Any]:
    return {
        **_chart("LINE", metric),
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": False,
        "selectedYAxisMetricKey": "metric",
        "yAxisExpressions": [],
        "yAxisKey": "metric",
        "range": {"xMin": None, "xMax": None, "yMin": None, "yMax": None},
    }


def parallel_chart(name: str, params: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """A line for each run through its parameters to its metrics."""
    chart = {**_chart("PARALLEL", name), "displayName": name}
    return {**chart, "selectedParams": list(params), "selectedMetrics": list(metrics), "showAllRuns": False}


def _chart(kind: str, name: str) -> dict[str, Any]:
    identity = f"{VIEW_KEY}-{kind}-{name}".lower().replace(" ", "-").replace("/", "-")
    return {
        "type": kind,
        "uuid": identity,
        "metricSectionId": SECTION,
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": False,
    }


def charts_address(server: str, experiment_id: str) -> str:
    """Of the page with the charts of cells."""
    return f"{table_address(server, experiment_id)}&compareRunsMode=CHART"


def table_address(server: str, experiment_id: str) -> str:
    """Of the page with the table of cells."""
    return f"{server}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW_KEY}"


def compare_address(server: str, experiment_id: str, runs: list[str]) -> str:
    """Of the page that compares runs side by side."""
    from urllib.parse import quote

    return f"{server}/#/compare-runs?runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment_id]))}"
