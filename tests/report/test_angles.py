"""The picture of the looks at a rule."""

from pathlib import Path

from PIL import Image

from fourfold.record import DIAGNOSED_STEP
from fourfold.report.angles import angle_curves
from records import make_record

LOOKS = {DIAGNOSED_STEP: [0, 5, 10], "angle/0.weight": [90.0, 40.0, 5.0], "angle/2.weight": [0.0, 0.0, 0.0]}


def test_angles_are_drawn_where_somebody_looked(tmp_path: Path) -> None:
    path = tmp_path / "angles.png"
    assert not angle_curves(make_record(), {"loss": [1.0, 2.0]}, path)
    assert not path.exists()
    assert angle_curves(make_record(), LOOKS, path)
    with Image.open(path) as narrow:
        one = narrow.size[0]
    assert angle_curves(make_record(), {**LOOKS, "weight_angle/block_2": [90.0, 80.0, 10.0]}, path)
    with Image.open(path) as wide:
        assert wide.size[0] == 2 * one
