"""Pictures that took minutes to decode, kept beside their archive as they lie in memory, for the next start."""

import hashlib
import json
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourfold.record import replacing

log = logging.getLogger(__name__)

FORMAT = 1  # of what is kept; another number makes all of it anew


def decoded(
    archive: zipfile.ZipFile, how: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What ``make`` makes of an archive, from a file beside it if that was made of the same content in the same way.

    how: what it depends on besides the content, as plain data. The content is told by the checksums of the archive's
    own directory. A file that is damaged is made again; where none can be written, it is made each time.
    """
    assert archive.filename is not None
    members = [(info.filename, info.CRC, info.file_size) for info in archive.infolist()]
    told = json.dumps([FORMAT, members, dict(how)], sort_keys=True)
    path = Path(f"{archive.filename}.{hashlib.sha256(told.encode()).hexdigest()[:16]}.npz")
    found = _read(path)
    if found is None:
        found = make()
        _write(path, found)
    return found


def _read(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s: damaged (%s), it is made again", path, error)
        return None


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        with replacing(path) as file:
            np.savez(file, **{name: values.numpy() for name, values in tensors.items()})  # type: ignore[arg-type]
    except OSError as error:
        log.info("%s: not written (%s), the pictures will be decoded again next time", path, error.strerror or error)
