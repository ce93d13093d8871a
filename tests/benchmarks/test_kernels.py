"""Kernels: they run, count their units, and do what they say."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing

from fourfold.benchmarks import libraries
from fourfold.benchmarks.communication import largest_of_all
from fourfold.benchmarks.loading import Jpegs
from fourfold.data.jpegs import encoded
from fourfold.errors import Unavailable


@pytest.mark.parametrize(
    ("name", "units"), [("matmul", 3 * 2 * 512**3), ("all_reduce", 3 * 1_000_000), ("data_loading", 3 * 8)]
)
def test_a_kernel_runs_and_counts_its_units(name, units, run):
    record = run(f"benchmark={name}", "hardware=cpu", "scale=smoke", "until.steps=3", "tracking=off")
    assert record.state == "done", record.message
    assert record.measurements["units"] == units


def test_alone_an_all_reduce_changes_nothing():
    values = torch.tensor([1.0, 2.0])
    reduce = largest_of_all(values)
    reduce()
    reduce()
    assert values.tolist() == [1.0, 2.0]


def one_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    values = torch.tensor([float(rank), 1.0 - rank])
    reduce = largest_of_all(values)
    reduce()
    reduce()
    torch.save(values, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_end_with_the_largest_values(tmp_path: Path):
    multiprocessing.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt").tolist() == [1.0, 1.0]


def test_decoded_pictures_are_crops_of_the_size_asked_for():
    pictures = Jpegs(list(encoded(2, 2, 32, seed=0)), size=16)
    first = pictures[0]
    assert first.shape == (3, 16, 16)
    assert first.dtype == torch.uint8
    assert first.float().std() > 1
    assert next(encoded(1, 2, 32, seed=0)) == pictures.files[0]


def test_a_missing_library_is_told_in_one_line_with_the_remedy():
    with pytest.raises(
        Unavailable, match=r"the package no_such_library is not installed: pip install 'fourfold\[graphs\]'"
    ):
        libraries.library("no_such_library", "graphs")
