"""The body joints of the data sets in use: names, skeletons, mirror partners and colours."""

from __future__ import annotations

from dataclasses import dataclass

from resq_core.errors import OptionError

__all__ = ["AIC14", "COCO17", "JHMDB15", "MPII16", "JointSet"]

Colour = tuple[int, int, int]
Pair = tuple[int, int]

_BLUE: Colour = (51, 153, 255)
_GREEN: Colour = (0, 255, 0)
_ORANGE: Colour = (255, 128, 0)


@dataclass(frozen=True, slots=True)
class JointSet:
    """Joints by index; checked when made.

    Attributes:
        names: one or more, all different; left and right are the person's own.
        skeleton: pairs of different joints that a drawing connects.
        flip: the joint that each one becomes in a mirrored picture.
        colours: RGB of each joint, 0 to 255.
        link_colours: RGB of each pair of the skeleton.

    Raises:
        OptionError: one of these does not hold.
    """

    names: tuple[str, ...]
    skeleton: tuple[Pair, ...]
    flip: tuple[int, ...]
    colours: tuple[Colour, ...]
    link_colours: tuple[Colour, ...]

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise OptionError(f"joint names are {self.names}; expected different ones")
        for pair in self.skeleton:
            known = len(pair) == 2 and all(0 <= joint < len(self.names) for joint in pair)
            if not known or pair[0] == pair[1]:
                raise OptionError(
                    f"the skeleton holds {pair}; expected two of {len(self.names)} joints"
                )
        self._check_flip()
        _check_colours(self.colours, len(self.names), "joints")
        _check_colours(self.link_colours, len(self.skeleton), "pairs of the skeleton")

    def __len__(self) -> int:
        return len(self.names)

    def _check_flip(self) -> None:
        everyone = list(range(len(self.names)))
        if sorted(self.flip) != everyone or [self.flip[i] for i in self.flip] != everyone:
            raise OptionError(
                f"flip is {self.flip}; expected each of {len(self.names)} joints once, "
                "and twice mirrored to be itself again"
            )


def _check_colours(colours: tuple[Colour, ...], count: int, what: str) -> None:
    if len(colours) != count:
        raise OptionError(f"{len(colours)} colours given for {count} {what}")
    for colour in colours:
        if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
            raise OptionError(f"a colour of the {what} is {colour}; expected R, G, B, 0 to 255")


def _joint_set(names: str, links: str, colours: str, link_colours: str) -> JointSet:
    """From words; a link is `from-to`, a colour the first letter of blue, green or orange."""
    joints = tuple(names.split())
    mirrored = {"left": "right", "right": "left"}
    partners = [
        "_".join([mirrored.get(side, side), *rest])
        for side, *rest in (name.split("_") for name in joints)
    ]
    pairs = (link.split("-") for link in links.split())
    paint = {"b": _BLUE, "g": _GREEN, "o": _ORANGE}
    return JointSet(
        names=joints,
        skeleton=tuple((int(start), int(end)) for start, end in pairs),
        flip=tuple(joints.index(partner) for partner in partners),
        colours=tuple(paint[letter] for letter in colours),
        link_colours=tuple(paint[letter] for letter in link_colours),
    )


# The colours are those of OpenMMLab's data set descriptions.
COCO17 = _joint_set(
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
    "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle "
    "right_ankle",
    "15-13 13-11 16-14 14-12 11-12 5-11 6-12 5-6 5-7 6-8 7-9 8-10 1-2 0-1 0-2 1-3 2-4 3-5 4-6",
    "bbbbb" + "go" * 6,
    "ggoobbbbgogo" + "b" * 7,
)

MPII16 = _joint_set(
    "right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax upper_neck "
    "head_top right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist",
    "0-1 1-2 2-6 6-3 3-4 4-5 6-7 7-8 8-9 8-12 12-11 11-10 8-13 13-14 14-15",
    "ooogggbbbboooggg",
    "ooogggbbbooo" + "ggg",
)

JHMDB15 = _joint_set(
    "neck belly head right_shoulder left_shoulder right_hip left_hip right_elbow left_elbow "
    "right_knee left_knee right_wrist left_wrist right_ankle left_ankle",
    "13-9 9-5 5-1 1-6 6-10 10-14 1-0 0-2 0-3 3-7 7-11 0-4 4-8 8-12",
    "ooogggbbbbooogg",
    "ooogggbbooo" + "ggg",
)

AIC14 = _joint_set(
    "right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip "
    "right_knee right_ankle left_hip left_knee left_ankle head_top neck",
    "2-1 1-0 0-13 13-3 3-4 4-5 8-7 7-6 6-9 9-10 10-11 12-13 0-6 3-9",
    "oooggg" * 2 + "bb",
    "oobbggoobggbbb",
)
