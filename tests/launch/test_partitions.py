"""What of a request no partition offers, from what sinfo says."""

from pathlib import Path
from typing import Any

import pytest

from fourfold.launch import partitions, slurm
from fourfold.launch.jobs import Job

SINFO = """\
main|infinite|gpu:a100:2(S:0-1)|a100,gpu,nvidia|64|515000|8
main|infinite|gpu:mi300x:8|mi300x,gpu,amd|96|1500000|4
short|30:00|(null)|cpu|32|128000|100
"""


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[partitions.Kind]:
    (tmp_path / "sinfo").write_text(f"#!/bin/sh\ncat <<'END'\n{SINFO}END\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    return partitions.kinds()


def test_sinfo_is_read(there: list[partitions.Kind]) -> None:
    assert [(kind.partition, kind.longest, kind.cores, kind.nodes) for kind in there] == [
        ("main", None, 64, 8), ("main", None, 96, 4), ("short", 30, 32, 100),
    ]  # fmt: skip
    assert there[0].gres == {"gpu": 2, "gpu:a100": 2}
    assert there[0].features == {"a100", "gpu", "nvidia"}
    assert there[2].gres == {}


@pytest.mark.parametrize(
    ("words", "found"),
    [("infinite", None), ("1-00:00:00", 1440), ("2:30:00", 150), ("1:30", 1.5), ("7-12:00:00", 10800), ("?", None)],
)
def test_time_limits(words: str, found: float | None) -> None:
    assert partitions.minutes(words) == found


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"gres": "gpu:a100:2", "constraint": "a100&nvidia", "mem_gb": 500}, None),
        ({"gres": "gpu:8"}, None),
        ({"gres": "gpu"}, None),
        ({"constraint": "h100|amd"}, None),
        ({"constraint": "[rack1*2]"}, None),  # for Slurm to say
        ({"gres": "gpu:h100:1"}, "hardware.launcher.gres=gpu:h100:1: no partition offers that; there is gpu"),
        ({"gres": "gpu:a100:4"}, "hardware.launcher.gres=gpu:a100:4: no partition offers that"),
        ({"constraint": "h100"}, "hardware.launcher.constraint=h100: no partition offers that; there is a100, gpu, nv"),
        ({"partition": "long"}, "hardware.launcher.partition=long: no partition offers that; there is main, short"),
        ({"mem_gb": 2000}, "hardware.launcher.mem_gb=2000: no partition offers that; there is 1465 at most on a node"),
        ({"cpus_per_task": 50, "tasks_per_node": 2}, "hardware.launcher.cpus_per_task=50: no partition offers that"),
        ({"nodes": 101}, "hardware.launcher.nodes=101: no partition offers that; there is 100 at most"),
        ({"partition": "short", "gres": "gpu:1"}, "no partition offers these together; there is partition=main: 8 x"),
        ({"partition": "short", "timeout_min": 60}, "hardware.launcher.partition=short, nodes=1, hardware.launcher"),
    ],
)
def test_what_no_partition_offers(request_: dict[str, Any], said: str | None, there: list[partitions.Kind]) -> None:
    job = Job(None, request={"nodes": 1, "tasks_per_node": 1, **request_})
    found = slurm.not_offered(job, {}, there)
    if said is None:
        assert found is None
    else:
        assert said.split(", nodes")[0] in str(found)
        assert "\n" not in str(found)


def test_what_the_site_asks_for_is_the_launchers(there: list[partitions.Kind]) -> None:
    assert str(slurm.not_offered(Job(None), {"partition": "x"}, there)).startswith("hydra.launcher.partition=x: ")


def test_unknown_clusters_and_a_sites_own_words_are_left_to_slurm(there: list[partitions.Kind]) -> None:
    job = Job(None, request={"gres": "gpu:h100:1"})
    assert slurm.not_offered(job, {}, []) is None
    assert slurm.not_offered(job, {"additional_parameters": {"reservation": "mine"}}, there) is None


def test_the_longest_time_is_that_of_suitable_partitions(there: list[partitions.Kind]) -> None:
    assert partitions.longest({"partition": "short"}, there) == 30
    assert partitions.longest({}, there) is None
