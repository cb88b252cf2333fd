"""A procedural street: seeded video with exact classes, instances and joints.

>>> street = Street(seed=0, camera="moving")
>>> street.frame(30).image.shape
(360, 480, 3)
"""

from resq_core.world.people import JOINTS, LIMBS
from resq_core.world.portraits import Portrait, cut_out, portrait
from resq_core.world.street import CameraKind, Person, Street, StreetFrame

__all__ = [
    "JOINTS",
    "LIMBS",
    "CameraKind",
    "Person",
    "Portrait",
    "Street",
    "StreetFrame",
    "cut_out",
    "portrait",
]
