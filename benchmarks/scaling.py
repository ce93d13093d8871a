"""How rates grow with the processes of this machine, as a page: runs suite=scaling on its processor.

    python benchmarks/scaling.py > docs/results/scaling.md

Wants an otherwise idle machine. Cores share caches, memory and clocks, so that this says whether the runner loses
anything of its own (copies exchange nothing), not how devices with memories of their own scale.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fourfold.environment import machine
from fourfold.report import scaling_report

WORDS = ["suite=scaling", "hardware=cpu", "until.steps=80", "tracking=off"]
ROOT = Path(__file__).resolve().parents[1]


def main() -> str:
    """The page, as Markdown. Raises CalledProcessError if a cell fails."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "FOURFOLD_OUTPUT": folder, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / "run.py"), "-m", *WORDS]
        load = os.getloadavg()[0]
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        table = scaling_report(Path(folder))
    found = machine()
    return PAGE.format(
        words=" ".join(WORDS), table=table, cores=found["cores"], processor=found["processor"], load=load
    )


PAGE = """# How rates grow with processes on one machine

Made by `python benchmarks/scaling.py`: `python run.py -m {words}`, one thread a process, then `python -m fourfold
report --scaling`. {processor}, {cores} cores, load before the start {load:.1f}. ResNet at smoke size.

```
{table}
```

{cores} cores share their caches, memory and clock. Copies exchange nothing: what they lose against one process is lost
to that sharing. What ddp loses beyond it is the exchange of gradients, over loopback by gloo.
"""

if __name__ == "__main__":
    print(main())
