"""What comes before the first step: the start of the process, and compilation."""

import sys
import time

_first = True


def process_seconds() -> float | None:
    """Seconds since this process was started, for its first cell; None for later ones, which found it warm."""
    global _first
    if not _first:
        return None
    _first = False
    import psutil

    return time.time() - psutil.Process().create_time()


def compile_seconds() -> float | None:
    """Seconds that torch.compile has taken in this process; None where nothing was compiled."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    times = getattr(dynamo, "compilation_time_metrics", None)
    if not times:
        return None
    return float(sum(times.get("_compile.compile_inner") or times.get("entire_frame_compile") or [])) or None
