"""One cell, or with -m a sweep.   python run.py -m benchmark=digits setting=class_incremental method=finetune,replay"""

import sys

try:
    from fourfold.launch.main import main
except ModuleNotFoundError as missing:
    sys.exit(
        f"error: {sys.executable} has no {missing.name}; `make run` sets up .venv, and "
        "`. .venv/bin/activate` makes its python the shell's"
    )

if __name__ == "__main__":
    main()
