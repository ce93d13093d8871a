"""Real data sets: each loader on a miniature in the set's own format on disk; what is missing or damaged; prepare."""

import gzip
import hashlib
import inspect
import io
import struct
import tarfile
import urllib.error
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fourfold.__main__ import main
from fourfold.composition import config_directory
from fourfold.data import decoded, idx, photographs, sources
from fourfold.errors import Refused, Unavailable
from fourfold.members import target
from learning import make_stream

OF_THE_BENCHMARK = ("limits", "classes", "normalise")  # keys that no loader is given
DRAW = np.random.default_rng(0)


def idx_bytes(values: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes())


def png(pixels: np.ndarray, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, form)
    return stream.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a miniature of a source, whose checksums are from now on those of the miniature; returns data_dir."""

    def write(name: str, contents: dict[str, bytes]) -> str:
        source = sources.SOURCES[name]
        folder = tmp_path / source.folder
        folder.mkdir(exist_ok=True)
        files = []
        for file in source.files:
            if file.name not in contents:
                continue
            (folder / file.name).write_bytes(contents[file.name])
            plain = gzip.decompress(contents[file.name]) if file.of_content else contents[file.name]
            files.append(replace(file, md5=hashlib.md5(plain).hexdigest()))
        monkeypatch.setitem(sources.SOURCES, name, replace(source, files=tuple(files), system=()))
        return str(tmp_path)

    return write


def family() -> dict[str, np.ndarray]:
    """Arrays of the four IDX files, of 20 training and 10 test pictures."""
    counts = {"train": 20, "t10k": 10}
    found: dict[str, np.ndarray] = {}
    for part, count in counts.items():
        found[f"{part}-images-idx3-ubyte"] = DRAW.integers(0, 256, (count, 28, 28))
        found[f"{part}-labels-idx1-ubyte"] = np.arange(count) % 10
    return found


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_the_mnist_family(name: str, put: Any) -> None:
    arrays = family()
    folder = put(name, {f"{part}.gz": idx_bytes(values) for part, values in arrays.items()})
    sets = idx.idx(folder, 0, name)
    assert torch.equal(sets.train.inputs[:, 0], torch.tensor(arrays["train-images-idx3-ubyte"], dtype=torch.uint8))
    assert sets.test.targets.tolist() == list(range(10))
    assert (sets.classes, sets.shape) == (10, (1, 28, 28))


def test_emnist_is_turned_upright_and_its_letters_count_from_0(put: Any) -> None:
    pictures = DRAW.integers(0, 256, (26, 28, 28))
    members = {}
    for part in ("train", "test"):
        members[f"gzip/emnist-letters-{part}-images-idx3-ubyte.gz"] = idx_bytes(pictures)
        members[f"gzip/emnist-letters-{part}-labels-idx1-ubyte.gz"] = idx_bytes(np.arange(26) + 1)
    folder = put("emnist", {"gzip.zip": zipped(members)})
    sets = idx.emnist(folder, 0, "emnist", "letters", 26)
    assert torch.equal(sets.train.inputs[3, 0], torch.tensor(pictures[3].T, dtype=torch.uint8))
    assert sets.train.targets.tolist() == list(range(26))
    with pytest.raises(Unavailable, match="has no gzip/emnist-digits"):
        idx.emnist(folder, 0, "emnist", "digits", 10)


@pytest.mark.parametrize(("name", "labels", "classes"), [("cifar10", "fine", 10), ("cifar100", "coarse", 20)])
def test_cifar_records_are_labels_then_red_green_blue(name: str, labels: str, classes: int, put: Any) -> None:
    pixels = DRAW.integers(0, 256, (2, 3, 32, 32))
    first = [bytes([7]), bytes([7, 93])][name == "cifar100"]
    record = first + pixels[0].astype(np.uint8).tobytes()
    if name == "cifar10":
        members = {f"cifar-10-batches-bin/data_batch_{number}.bin": record for number in range(1, 6)}
        members["cifar-10-batches-bin/test_batch.bin"] = record
    else:
        members = {"cifar-100-binary/train.bin": record * 5, "cifar-100-binary/test.bin": record}
    file = sources.SOURCES[name].files[0].name
    folder = put(name, {file: tarred(members)})
    sets = photographs.cifar(folder, 0, name, labels, classes)
    assert len(sets.train) == 5
    assert torch.equal(sets.test.inputs[0], torch.tensor(pixels[0], dtype=torch.uint8))
    assert sets.test.targets.tolist() == [7]
    if name == "cifar100":
        assert photographs.cifar(folder, 0, name, "fine", 100).test.targets.tolist() == [93]
        with pytest.raises(Refused, match=r"classes_used=100.*have 20 classes"):
            photographs.cifar(folder, 0, name, "coarse", 100)


def test_cifar10_as_jpeg_takes_classes_from_its_folders(put: Any) -> None:
    grey = np.full((32, 32, 3), 100)
    names = ["airplane", "bird", "cat"]
    parts = {f"{part}/{name}/0000.jpg": png(grey, "JPEG") for part in ("train", "test") for name in names}
    contents = {
        f"cifar10-jpeg-{part}.zip": zipped({k: v for k, v in parts.items() if k.startswith(part)})
        for part in ("train", "test")
    }
    sets = photographs.cifar10_jpeg(put("cifar10_jpeg", contents), 0, "cifar10_jpeg")
    assert sets.train.targets.tolist() == [0, 1, 2]
    assert sets.train.inputs.shape == (3, 3, 32, 32)
    assert (sets.test.inputs.float() - 100).abs().max() <= 2


def test_imagenet32_counts_its_labels_from_0(put: Any) -> None:
    def batch(count: int) -> bytes:
        stream = io.BytesIO()
        np.savez(stream, data=DRAW.integers(0, 256, (count, 3072)).astype(np.uint8), labels=np.arange(count) + 1)
        return stream.getvalue()

    contents = {file.name: batch(2) for file in sources.SOURCES["imagenet32"].files}
    sets = photographs.imagenet32(put("imagenet32", contents), 0, "imagenet32")
    assert sets.train.targets.tolist() == [0, 1] * 10
    assert sets.test.inputs.shape == (2, 3, 32, 32)


def test_tiny_imagenet_reads_the_labels_of_its_validation_part(put: Any) -> None:
    white, black = np.full((64, 64, 3), 255), np.zeros((64, 64, 3))
    root = "tiny-imagenet-200"
    members = {
        f"{root}/train/n02/images/n02_0.JPEG": png(white, "JPEG"),
        f"{root}/train/n01/images/n01_0.JPEG": png(black[..., 0], "JPEG"),  # some are grey
        f"{root}/val/images/val_0.JPEG": png(white, "JPEG"),
        f"{root}/val/val_annotations.txt": b"val_0.JPEG\tn02\t0\t0\t1\t1\n",
    }
    sets = photographs.tiny_imagenet(
        put("tiny_imagenet", {"tiny-imagenet-200.zip": zipped(members)}), 0, "tiny_imagenet"
    )
    assert sets.train.targets.tolist() == [0, 1]
    assert sets.test.targets.tolist() == [1]
    assert sets.train.inputs.float().mean((1, 2, 3)).tolist() == [0, 255]


def test_what_was_decoded_once_is_read_from_beside_the_archive(put: Any, monkeypatch: Any, caplog: Any) -> None:
    def members(shade: int) -> dict[str, bytes]:
        root = "tiny-imagenet-200"
        picture = png(np.full((64, 64, 3), shade), "JPEG")
        names = (f"{root}/train/n01/images/n01_0.JPEG", f"{root}/val/images/val_0.JPEG")
        return dict.fromkeys(names, picture) | {f"{root}/val/val_annotations.txt": b"val_0.JPEG\tn01\t0\t0\t1\t1\n"}

    def load(folder: str) -> Any:
        return photographs.tiny_imagenet(folder, 0, "tiny_imagenet").train.inputs

    decoding = photographs._pictures
    asked: list[int] = []
    monkeypatch.setattr(photographs, "_pictures", lambda *words: asked.append(1) or decoding(*words))
    folder = put("tiny_imagenet", {"tiny-imagenet-200.zip": zipped(members(100))})
    first, again = load(folder), load(folder)
    assert torch.equal(first, again)
    assert len(asked) == 2, "training and test pictures, once"
    folder = put("tiny_imagenet", {"tiny-imagenet-200.zip": zipped(members(200))})
    assert load(folder).float().mean() > 190, "another archive of the same name"
    assert len(asked) == 4
    kept = sorted(Path(folder, "tiny_imagenet").glob("*.npz"))
    assert len(kept) == 2
    for path in kept:
        path.write_bytes(path.read_bytes()[:100])
    assert load(folder).float().mean() > 190, "a damaged one is made again"
    assert len(asked) == 6
    assert "damaged" in caplog.text
    for path in kept:
        path.unlink()

    def full(path: Path) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded, "replacing", full)
    assert load(folder).float().mean() > 190, "a folder that cannot be written"
    assert not list(Path(folder, "tiny_imagenet").glob("*.npz"))


def test_core50_holds_three_sessions_out_and_keeps_sessions_as_domains(put: Any) -> None:
    members = {
        f"core50_128x128/s{session}/o{number}/C_{session:02}_{number:02}_{frame:03}.png": png(
            np.full((128, 128, 3), session * 10 + frame)
        )
        for session in (1, 2, 3)
        for number in (1, 6)
        for frame in (0, 1, 2)
    }
    folder = put("core50", {"core50_128x128.zip": zipped(members)})
    sets = photographs.core50(folder, 0, "core50", "categories", 10, every=2, image_size=16)
    assert sets.train.targets.tolist() == [0, 0, 1, 1] * 2
    assert sets.train.domains.tolist() == [0] * 4 + [1] * 4
    assert set(sets.test.domains.tolist()) == {2}
    assert sets.train.inputs[:, 0, 0, 0].tolist() == [10, 12, 10, 12, 20, 22, 20, 22]
    assert sets.test.inputs.float().mean().item() == 31


@pytest.mark.parametrize(("evaluate_on", "contexts"), [("test", 8), ("validation", 2)])
def test_a_cell_learns_core50_session_by_session(put: Any, run: Any, evaluate_on: str, contexts: int) -> None:
    """The command of conf/benchmark/data/core50.yaml: eight sessions, judged on the three held out; a part of the
    training samples comes from the sessions themselves."""
    members = {
        f"core50_128x128/s{session}/o{number}/C_{session:02}_{number:02}_{frame:03}.png": png(
            DRAW.integers(0, 255, (128, 128, 3))
        )
        for session in range(1, 12)
        for number in range(1, 51, 5)  # one object of each category
        for frame in (0, 10, 20)
    }
    folder = put("core50", {"core50_128x128.zip": zipped(members)})
    record = run(
        *("benchmark=core50", f"data_dir={folder}", "setting=domain_incremental", "setting.split=domains"),
        *(f"setting.contexts={contexts}", "benchmark.data.labels=categories", "benchmark.data.classes_used=10"),
        *("batch=8", "until.steps=8", f"evaluate_on={evaluate_on}"),
    )
    assert record.state == "done", record.message
    sizes = {(entry["context"], entry["samples"]) for entry in record.evaluations}
    if evaluate_on == "test":
        assert sizes == {(context, 90) for context in range(contexts)}
    else:
        assert {context for context, _ in sizes} == {0, 1}
        assert sum(count for _, count in sizes) == 24


def omniglot_zip(name: str, alphabets: dict[str, int]) -> bytes:
    members = {}
    for alphabet, count in alphabets.items():
        for character in range(1, count + 1):
            for drawing in range(1, 21):
                pixels = np.full((105, 105), 255)
                pixels[:, : 5 * character] = 0  # ink
                path = f"{name}/{alphabet}/character{character:02}/{character:04}_{drawing:02}.png"
                members[path] = png(pixels)
    return zipped(members)


def test_omniglot_joins_its_parts_and_splits_by_alphabets(put: Any) -> None:
    names = ("images_background_small1", "images_background_small2")
    contents = {
        f"{names[0]}.zip": omniglot_zip(names[0], {"Greek": 2, "Latin": 3}),
        f"{names[1]}.zip": omniglot_zip(names[1], {"Latin": 3, "Tagalog": 1}),  # Latin is in both
    }
    folder = put("omniglot", contents)
    sets = photographs.omniglot(folder, 0, "omniglot", names, characters=6, drawings=15, image_size=28)
    assert sets.train.targets.bincount().tolist() == [15] * 6
    assert sets.test.targets.bincount().tolist() == [5] * 6
    assert sets.train.domains[::15].tolist() == [0, 0, 1, 1, 1, 2]
    assert sets.train.inputs[0, 0, 0, 0] == 255, "ink is bright"
    assert sets.train.inputs[0, 0, 0, -1] == 0

    class Characters:
        name, outputs = "omniglot", 6

    Characters.sets = sets  # type: ignore[attr-defined]
    stream = make_stream("task_incremental", Characters(), split="domains", contexts=3)  # type: ignore[arg-type]
    assert [context.outputs for context in stream.contexts] == [(0, 1), (2, 3, 4), (5,)]
    with pytest.raises(Refused, match="characters=100: these data have 6"):
        photographs.omniglot(folder, 0, "omniglot", names, characters=100, drawings=15, image_size=28)


def test_osaka_as_published_runs_on_miniatures_of_its_three_sets(put: Any, run: Any) -> None:
    zips = {
        "images_background": {"Greek": 2, "Latin": 3},
        "images_evaluation": {"Tagalog": 2},
    }
    folder = put("omniglot", {f"{name}.zip": omniglot_zip(name, alphabets) for name, alphabets in zips.items()})
    for name in ("mnist", "fashion_mnist"):
        put(name, {f"{part}.gz": idx_bytes(values) for part, values in family().items()})
    words = ["benchmark.data.modes.omniglot.classes=7", "benchmark.data.modes.omniglot.data.characters=7"]
    words += ["benchmark.data.train_classes=3", "benchmark.data.validation_classes=2", "benchmark.data.epochs=1"]
    words += ["benchmark.data.epoch_batches=1", "method.meta_queries=2", "benchmark.model.width=0.1"]
    words += ["setting.ways=2", "setting.shots=2", "setting.alpha=0.5", "until.steps=12", "tuned=off"]
    record = run("benchmark=osaka_omniglot", "setting=osaka", "method=cmaml_pre", f"data_dir={folder}", *words)
    assert record.state == "done", record.message
    assert record.measurements["contexts"] == [
        "context 0: omniglot",
        "context 1: mnist",
        "context 2: fashion_mnist",
    ]
    assert record.measurements["method"]["pretraining"]["meta_batches"] == 1


# ------------------------------------------------------------------------------- missing and damaged


def test_a_missing_file_is_named_with_its_checksum_and_what_gets_it(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        idx.idx(str(tmp_path), 0, "kmnist")
    message = str(caught.value)
    assert "train-images-idx3-ubyte.gz" in message
    assert "md5 bdb82020997e1d708af4cf47b453dcf7" in message
    assert "python -m fourfold prepare benchmark=kmnist" in message
    assert "\n" not in message


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_is_named_with_the_checksum_expected(damage: str, put: Any) -> None:
    folder = put("mnist", {f"{part}.gz": idx_bytes(values) for part, values in family().items()})
    path = Path(folder) / "mnist" / "train-images-idx3-ubyte.gz"
    expected = sources.SOURCES["mnist"].files[0].md5
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else idx_bytes(np.zeros((20, 28, 28))))
    with pytest.raises(Unavailable) as caught:
        idx.idx(folder, 0, "mnist")
    assert str(path) in str(caught.value)
    assert f"md5 {expected} after gunzip" in str(caught.value)
    assert "prepare benchmark=mnist" in str(caught.value)


def without_checksums(name: str, folder: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> str:
    """Files as they are, of a source that has no checksums; returns data_dir."""
    source = sources.SOURCES[name]
    bare = replace(source, files=tuple(replace(file, md5=None) for file in source.files))
    monkeypatch.setitem(sources.SOURCES, name, bare)
    (folder / source.folder).mkdir()
    for file, content in contents.items():
        (folder / source.folder / file).write_bytes(content)
    return str(folder)


IMAGENET = [file.name for file in sources.SOURCES["imagenet32"].files]
CORE50 = "core50_128x128/s1/o1/C_01_01_010.png"
RECORDS = ["test_batch.bin", *(f"data_batch_{number}.bin" for number in range(1, 6))]
GARBAGE = {
    "npz that is no archive": ("imagenet32", dict.fromkeys(IMAGENET, b"garbage")),
    "npz without its arrays": ("imagenet32", dict.fromkeys(IMAGENET, zipped({"x.npy": b"nothing"}))),
    "zip that is no archive": ("core50", {"core50_128x128.zip": b"garbage"}),
    "zip of damaged pictures": ("core50", {"core50_128x128.zip": zipped({CORE50: b"garbage"})}),
    "zip without its list": ("tiny_imagenet", {"tiny-imagenet-200.zip": zipped({"a/train/b/c.JPEG": b"garbage"})}),
    "tar that is no archive": ("cifar10", {"cifar-10-binary.tar.gz": b"garbage"}),
    "tar without its members": ("cifar10", {"cifar-10-binary.tar.gz": tarred({"a.bin": b"1"})}),
    "records cut short": ("cifar10", {"cifar-10-binary.tar.gz": tarred(dict.fromkeys(RECORDS, b"123"))}),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_damaged_file_without_a_checksum_is_unavailable_in_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, contents = GARBAGE[kind]
    folder = without_checksums(name, tmp_path, contents, monkeypatch)
    loaders = {
        "imagenet32": lambda: photographs.imagenet32(folder, 0, name),
        "core50": lambda: photographs.core50(folder, 0, name, "objects", 50, every=10, image_size=32),
        "tiny_imagenet": lambda: photographs.tiny_imagenet(folder, 0, name),
        "cifar10": lambda: photographs.cifar(folder, 0, name),
    }
    with pytest.raises(Unavailable) as caught:
        loaders[name]()
    message = str(caught.value)
    assert str(Path(folder) / name / next(iter(contents))) in message
    assert "damaged (" in message
    assert sources.SOURCES[name].command in message
    assert "\n" not in message


def test_a_cell_without_its_data_is_unavailable(run: Any, tmp_path: Path) -> None:
    record = run("benchmark=cifar100", f"data_dir={tmp_path}")
    assert record.state == "unavailable"
    assert "cifar-100-binary.tar.gz" in record.message


# -------------------------------------------------------------------------------------------- prepare


class Reply(io.BytesIO):
    """What a server answers."""


def serve(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], Reply]) -> list[str]:
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> Reply:
        asked.append(url)
        return answer(url)

    monkeypatch.setattr(sources.urllib.request, "urlopen", urlopen)
    return asked


def test_prepare_finds_and_verifies(put: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, lambda url: pytest.fail("nothing is missing"))
    folder = put("kmnist", {f"{part}.gz": idx_bytes(values) for part, values in family().items()})
    assert main(["prepare", "benchmark=kmnist", f"data_dir={folder}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all("found; verified, md5" in line for line in lines)
    assert not asked


def test_prepare_downloads_what_is_missing_once(put: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {f"{part}.gz": idx_bytes(values) for part, values in family().items()}
    folder = put("kmnist", contents)
    missing = Path(folder) / "kmnist" / "t10k-labels-idx1-ubyte.gz"
    missing.unlink()
    asked = serve(monkeypatch, lambda url: Reply(contents[url.rsplit("/", 1)[1]]))
    assert main(["prepare", "benchmark=kmnist", f"data_dir={folder}"]) == 0
    assert "t10k-labels-idx1-ubyte.gz: downloaded from http" in capsys.readouterr().out
    assert missing.read_bytes() == contents[missing.name]
    assert len(asked) == 1


@pytest.mark.parametrize("trouble", ["offline", "changed"])
def test_prepare_leaves_nothing_half_done(
    trouble: str, put: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def answer(url: str) -> Reply:
        if trouble == "offline":
            raise urllib.error.URLError("no route to host")
        return Reply(b"something else")

    serve(monkeypatch, answer)
    assert main(["prepare", "benchmark=cifar10", f"data_dir={tmp_path}"]) == 1
    message = capsys.readouterr().err
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz" in message
    assert ("no route to host" if trouble == "offline" else "not the canonical file") in message
    assert list((tmp_path / "cifar10").iterdir()) == []


def test_prepare_says_what_cannot_be_downloaded_and_what_needs_nothing(tmp_path: Path, capsys: Any) -> None:
    assert main(["prepare", "benchmark=imagenet32", f"data_dir={tmp_path}"]) == 1
    assert "Imagenet32_train_npz.zip" in capsys.readouterr().err
    assert main(["prepare", "benchmark=digits"]) == 0
    assert "needs no files" in capsys.readouterr().out
    assert main(["prepare", "benchmark=none_such"]) == 2


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_real_files_load(name: str, real_data: str) -> None:
    sets = idx.idx(real_data, 0, name)
    assert (len(sets.train), len(sets.test)) == (60_000, 10_000)
    assert sets.train.targets.bincount().min() >= 5421


@pytest.mark.data
def test_real_drawings_load(real_data: str) -> None:
    names = ("images_background_small1", "images_background_small2")
    sets = photographs.omniglot(real_data, 0, "omniglot", names, characters=242, drawings=15, image_size=28)
    assert len(sets.train) == 242 * 15
    ink = sets.train.inputs.float().mean() / 255
    assert 0.02 < ink < 0.2


@pytest.mark.data
def test_osaka_goes_through_the_real_trio(real_data: str, run: Any) -> None:
    words = ["benchmark=osaka_omniglot", "benchmark/data=osaka_omniglot_small", "setting=osaka", "setting.alpha=0.5"]
    record = run(*words, "method=online_sgd", "tuned=off", "scale=smoke", "until.steps=12", f"data_dir={real_data}")
    assert record.state == "done", record.message
    assert len(record.measurements["contexts"]) == 3


@pytest.mark.parametrize(
    "path", sorted((config_directory() / "benchmark" / "data").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_loader_takes_the_values_of_its_file(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    modes = [mode["data"] for mode in (node.get("modes") or {}).values() if "data" in mode]
    for loader in [{key: value for key, value in node.items() if key not in OF_THE_BENCHMARK}, *modes]:
        if loader.get("_target_"):
            values = {key: value for key, value in loader.items() if key != "_target_"}
            inspect.signature(target(loader)).bind(data_dir="", seed=0, **values)
