"""Asking for help, looking at a configuration, and being refused are quick: no torch, no MLflow."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from fourfold import composition

HEAVY = ("torch", "lightning", "mlflow", "transformers", "pandas", "scipy", "sklearn", "torchmetrics")
BOUND = 2.0  # CPU seconds; about 0.6 on the machine this was written on, but tests share theirs
SCRIPT = """
import sys
from fourfold.launch.main import run_command_line
try:
    status = run_command_line(sys.argv[1:])
except SystemExit as error:
    status = error.code
print("LOADED", *[name for name in {heavy} if name in sys.modules])
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["--cfg", "job"], 0),
        (["--info", "defaults"], 0),
        (["-sc", "install=bash"], 0),
        (["method=ewcc"], 2),
        (["method=execute"], 2),
        (["-m", "method=execute", "seed=0,1"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_is_quick(words: list[str], status: int, tmp_path: Path) -> None:
    environment = {**os.environ, "FOURFOLD_OUTPUT": str(tmp_path / "outputs")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", SCRIPT.format(heavy=HEAVY), *words]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{' '.join(words)}: {seconds:.2f} CPU s")
    assert found.returncode == status, found.stderr
    assert found.stdout.strip().splitlines()[-1] == "LOADED"
    assert seconds < BOUND
    assert not (tmp_path / "outputs").exists()


def test_completion(tmp_path: Path) -> None:
    """What the shell asks when the user presses tab."""
    line = "python run.py benchmark=fashion"
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    command = [sys.executable, "-c", SCRIPT.format(heavy=HEAVY), "-sc", "query=bash"]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert found.stdout.split()[:1] == ["benchmark=fashion_mnist"]


@pytest.mark.parametrize(
    ("name", "expected"), [("submitit_local", "LocalLauncher"), ("submitit_slurm", "SlurmLauncher")]
)
def test_the_launchers_are_ours(name: str, expected: str, recwarn: pytest.WarningsRecorder) -> None:
    """conf/hydra/launcher wins over the nodes that the submitit plugin registers under the same names."""
    composition.register_resolvers()
    with initialize_config_dir(str(composition.config_directory()), version_base="1.3", job_name="test"):
        config = compose("config", overrides=[f"hydra/launcher={name}"], return_hydra_config=True)
    assert config.hydra.launcher._target_ == f"hydra_plugins.fourfold_plugins.launcher.{expected}"
    assert not [str(warning.message) for warning in recwarn if "schema" in str(warning.message)]


def test_other_programs_keep_the_plugins_own(tmp_path: Path) -> None:
    """Fourfold installed beside another Hydra program changes nothing there."""
    (tmp_path / "config.yaml").write_text("a: 1\n")
    code = (
        "from hydra import compose, initialize_config_dir\n"
        f"with initialize_config_dir({str(tmp_path)!r}, version_base='1.3', job_name='other'):\n"
        "    config = compose('config', overrides=['hydra/launcher=submitit_slurm'], return_hydra_config=True)\n"
        "print(config.hydra.launcher._target_)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.strip() == "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


@pytest.mark.slow
def test_the_launchers_are_ours_in_a_wheel(tmp_path: Path) -> None:
    """Built and installed elsewhere: the wheel brings conf/ and the plugins, and finds them."""
    root = Path(__file__).resolve().parents[2]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(root)]
    built = subprocess.run(build, capture_output=True, text=True, timeout=280, check=False)
    if built.returncode != 0:
        pytest.skip(f"a wheel cannot be built here (no hatchling?): {built.stderr.strip().splitlines()[-1:]}")
    wheel = next(tmp_path.glob("fourfold-*.whl"))
    target = tmp_path / "installed"
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, capture_output=True, timeout=280, check=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    for name, expected in (("submitit_local", "LocalLauncher"), ("submitit_slurm", "SlurmLauncher")):
        words = ["--cfg", "hydra", "-p", "hydra.launcher", f"hydra/launcher={name}"]
        code = (
            "import fourfold, hydra_plugins.fourfold_plugins as plugins\n"
            f"assert fourfold.__file__.startswith({str(target)!r}) and plugins.__file__.startswith({str(target)!r})\n"
            "from fourfold.launch.main import main; main()"
        )
        found = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120, check=False,
        )  # fmt: skip
        assert f"_target_: hydra_plugins.fourfold_plugins.launcher.{expected}" in found.stdout, found.stderr
        assert "Warning" not in found.stderr
