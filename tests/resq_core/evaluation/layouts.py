"""Tiny data sets in the layouts of their makers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZE = (48, 64)


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A ramp with a red square that walks."""
    image = np.repeat(np.linspace(30, 120, size[1], dtype=np.uint8)[None], size[0], 0)
    image = np.repeat(image[..., None], 3, 2)
    image[square(index, size)] = (220, 60, 40)
    return image


def square(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[10:26, 8 + index : 24 + index] = True
    return mask


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_camvid(root: Path, drives: dict[str, int], split: str = "test") -> Path:
    """`drives`: frames by drive. The square is the class 8, the rest 3, the top row unlabelled."""
    for drive, frames in drives.items():
        for i in range(frames):
            save(root / split / f"{drive}_{i:05}.png", picture(i))
            label = np.where(square(i), 8, 3).astype(np.uint8)
            label[0] = 11
            save(root / f"{split}annot" / f"{drive}_{i:05}.png", label)
    return root


def write_cityscapes(root: Path, snippets: dict[str, int], split: str = "val") -> Path:
    """`snippets`: the labelled frame's number by CITY_SEQUENCE; 5 frames before and 2 after it."""
    for name, last in snippets.items():
        folder = root / "leftImg8bit_sequence" / split / name.split("_")[0]
        for number in range(last - 5, last + 3):
            save(folder / f"{name}_{number:06}_leftImg8bit.png", picture(number - last + 5))
        label = np.where(square(5), 26, 7).astype(np.uint8)  # car, road
        label[0], label[1] = 0, 255
        folder = root / "gtFine" / split / name.split("_")[0]
        save(folder / f"{name}_{last:06}_gtFine_labelIds.png", label)
    return root


def write_davis(root: Path, clips: dict[str, int], year: int = 2017, split: str = "val") -> Path:
    """`clips`: frames by name. The square is object 1, from 2017 on its lower half object 2."""
    for clip, frames in clips.items():
        for i in range(frames):
            save(root / "JPEGImages" / "480p" / clip / f"{i:05}.jpg", picture(i))
            ids = square(i).astype(np.uint8)
            if year == 2016:
                ids *= 255
            else:
                ids[18:] *= 2
            save(root / "Annotations" / "480p" / clip / f"{i:05}.png", ids)
    lists = root / "ImageSets" / str(year)
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("\n".join(clips) + "\n")
    return root


def joints(frames: int) -> np.ndarray:
    """[frames, 15, 2] from 0: thirteen joints on the square, and two far from each other."""
    grid = np.array([(10 + 6 * (k % 3), 11 + 3 * (k // 3)) for k in range(15)], float)
    grid[13:] = (4, 4), (44, 40)
    return np.stack([grid + np.array((i, 0)) for i in range(frames)])


def write_jhmdb(root: Path, clips: dict[str, tuple[int, str]]) -> Path:
    """`clips`: by ACTION/CLIP, frames and its part (1 training, 2 test) in splits 1, 2 and 3."""
    lists: dict[str, str] = {}
    for clip, (frames, parts) in clips.items():
        for i in range(frames):
            save(root / "Rename_Images" / clip / f"{i + 1:05}.png", picture(i))
        write_joints(root, clip, joints(frames))
        action, name = clip.split("/")
        for split, part in enumerate(parts, 1):
            path = f"{action}_test_split{split}.txt"
            lists[path] = lists.get(path, "") + f"{name}.avi {part}\n"
    (root / "splits").mkdir(exist_ok=True)
    for path, text in lists.items():
        (root / "splits" / path).write_text(text)
    return root


def write_joints(root: Path, clip: str, points: np.ndarray) -> Path:
    path = root / "joint_positions" / clip / "joint_positions.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    others = {"scale": np.ones((1, len(points))), "viewpoint": "E", "pos_world": points}
    savemat(path, {"pos_img": points.transpose(2, 1, 0) + 1, **others}, do_compression=True)
    return path
