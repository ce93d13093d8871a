"""One cell, or with -m a sweep.   python run.py -m benchmark=digits setting=class_incremental method=finetune,replay"""

from fourfold.launch.main import main

if __name__ == "__main__":
    main()
