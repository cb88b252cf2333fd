"""Class names and colours of the label sets in use; a class's index is its label value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CAMVID11", "CITYSCAPES19", "LabelSet"]

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class LabelSet:
    """Classes by label value, their RGB colours, and the label value that is not scored."""

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore_index: int


def _label_set(ignore_index: int, rows: tuple[tuple[str, Colour], ...]) -> LabelSet:
    names = tuple(name for name, _ in rows)
    colours = tuple(colour for _, colour in rows)
    return LabelSet(names, colours, ignore_index)


# The 11-class set of the SegNet work, where 11 stands for unlabelled.
CAMVID11 = _label_set(
    11,
    (
        ("sky", (128, 128, 128)),
        ("building", (128, 0, 0)),
        ("pole", (192, 192, 128)),
        ("road", (128, 64, 128)),
        ("pavement", (60, 40, 222)),
        ("tree", (128, 128, 0)),
        ("sign_symbol", (192, 128, 128)),
        ("fence", (64, 64, 128)),
        ("car", (64, 0, 128)),
        ("pedestrian", (64, 64, 0)),
        ("bicyclist", (0, 128, 192)),
    ),
)

# The 19 training classes of the Cityscapes benchmark.
CITYSCAPES19 = _label_set(
    255,
    (
        ("road", (128, 64, 128)),
        ("sidewalk", (244, 35, 232)),
        ("building", (70, 70, 70)),
        ("wall", (102, 102, 156)),
        ("fence", (190, 153, 153)),
        ("pole", (153, 153, 153)),
        ("traffic light", (250, 170, 30)),
        ("traffic sign", (220, 220, 0)),
        ("vegetation", (107, 142, 35)),
        ("terrain", (152, 251, 152)),
        ("sky", (70, 130, 180)),
        ("person", (220, 20, 60)),
        ("rider", (255, 0, 0)),
        ("car", (0, 0, 142)),
        ("truck", (0, 0, 70)),
        ("bus", (0, 60, 100)),
        ("train", (0, 80, 100)),
        ("motorcycle", (0, 0, 230)),
        ("bicycle", (119, 11, 32)),
    ),
)
