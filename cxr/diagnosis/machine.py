"""Looks at cores and their units, memory, disks and pretrained weights."""

import os
import pathlib
import platform
import shutil

from cxr import platforms
from cxr.diagnosis.check import Check, Status

# The reference set takes 262 MB decoded, and as much again while it is read; half of
# what is free is the default budget.
_LITTLE_MEMORY = 2 << 30  # 2 GiB
_LITTLE_DISK = 1 << 30  # 1 GiB: a few checkpoints of VGG16, or the reference set raw
_GIB = 1 << 30


def cpu() -> list[Check]:
    """Looks at what computes without a GPU."""
    cores, unit = platforms.available_cores(), platforms.bfloat16_unit()
    alone: Status = "slow" if cores == 1 else "ok"
    more = ": films are decoded on the core that trains" if cores == 1 else ""
    described = f"{platform.system()}, {platform.machine()}"
    return [
        Check("cpu", "system", "ok", platform.platform(), described),
        Check("cpu", "cores", alone, cores, f"{cores} cores for this process{more}"),
        Check(
            "cpu",
            "bfloat16_unit",
            "ok" if unit else "slow",
            unit,
            f"multiplies bfloat16 ({unit})"
            if unit
            else "neither AMX nor AVX512-BF16: networks compute in float32 on this CPU",
        ),
    ]


def memory() -> list[Check]:
    """Looks at the memory that is free, a container's limit seen."""
    free = platforms.free_memory_bytes()
    enough = free >= _LITTLE_MEMORY
    text = f"{free / _GIB:.1f} GiB free"
    if not enough:
        text += ": larger sets are read from disk in every epoch (--ram_budget_gib)"
    status: Status = "ok" if enough else "slow"
    return [Check("memory", "free_bytes", status, free, text)]


def disks(data_dir: str) -> list[Check]:
    """Looks at the disks of this folder and of the converted sets.

    Args:
      data_dir: root of the converted sets, which need not exist.
    """
    root = pathlib.Path(data_dir).absolute()
    return [
        _disk("here", pathlib.Path.cwd(), "the folder at hand"),
        _disk("data_dir", root, f"--data_dir={without_home(data_dir)}"),
    ]


def weights() -> list[Check]:
    """Looks for the weights that `--weights=imagenet` starts from."""
    try:
        from cxr.training import pretrained

        path = pretrained.imagenet_path()
    except ImportError as error:
        text = f"ImageNet weights: not looked for: {error}"
        return [Check("weights", "imagenet", "missing", None, text)]
    shown = without_home(path)
    if path.is_file():
        return [Check("weights", "imagenet", "ok", shown, f"ImageNet: {shown}")]
    text = (
        "ImageNet: the first --weights=imagenet fetches them; without network put "
        f"them at {shown}"
    )
    return [Check("weights", "imagenet", "missing", None, text)]


def without_home(path: str | os.PathLike) -> str:
    """Returns a path that does not name its user, for reports sent to others."""
    home, text = os.path.expanduser("~"), os.fspath(path)
    inside = home not in ("~", "/") and text.startswith(home + os.sep)
    return f"~{text[len(home) :]}" if inside else text


def _disk(name: str, path: pathlib.Path, said: str) -> Check:
    place = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / _GIB:.1f} GiB free on the disk of {said}"
    if place != path:
        text += " (no such folder yet)"
    if not os.access(place, os.W_OK):
        text = f"{without_home(place)} cannot be written to, for {said}"
        return Check("disk", name, "missing", free, text)
    if free < _LITTLE_DISK:
        text += ": little for a set and a run's checkpoints"
    return Check("disk", name, "ok" if free >= _LITTLE_DISK else "missing", free, text)
