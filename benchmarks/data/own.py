"""A detection set of the user's, in COCO's form: where it lies, by the command line or a short YAML file."""
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data.checks import check_coco
from benchmarks.data.coco import CocoData, listing
from benchmarks.data.sources import SPLITS, joined
from detco.errors import UserError
from leaderboard.record import required_of_name

PARTS = tuple(f"{split}_{part}" for split in SPLITS for part in ("json", "images"))
FORM = "name: cats, and train: and val: with json: and images: each, relative to the file"


@dataclass(frozen=True)
class OwnData:
    """A set's name, and (images, annotations) of each split."""

    name: str
    splits: Mapping[str, tuple[Path, Path]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Its categories, without a look at images. Raises DataError."""
        return tuple(category.get("name") for category in listing(self.splits["val"][1]).categories)

    def checked(self, masks: bool, keypoints: bool, cache: Path, show: bool = False) -> CocoData:
        """The set, checked; arguments and errors as `benchmarks.data.checks.check_coco`'s."""
        found = {split: check_coco(*paths, masks=masks, keypoints=keypoints, cache=cache, show=show)
                 for split, paths in self.splits.items()}
        return joined(self.splits, found, show)


def own_data(name: str | None, given: Mapping[str, Path | None]) -> OwnData | None:
    """The set that the options name; None where they name none.

    Args:
        name: of --data; a YAML file, or the set's name beside all of `given`.
        given: PARTS -> path or None.
    Raises UserError, in one line, for what is missing or not there.
    """
    options = {part: f"--{part.replace('_', '-')}" for part in PARTS}
    if name is None:
        if stray := [options[part] for part in PARTS if given[part]]:
            raise UserError(f"{stray[0]} belongs to --data NAME; give both")
        return None
    if name.endswith((".yml", ".yaml")):
        if stray := [options[part] for part in PARTS if given[part]]:
            raise UserError(f"{stray[0]}: --data {name} says where the set lies; leave one out")
        name, given = _read(Path(name))
    elif missing := [options[part] for part in PARTS if not given[part]]:
        raise UserError(f"--data {name}: {', '.join(missing)} missing; or give a YAML file with {FORM}")
    if rule := required_of_name(name):
        raise UserError(f"--data {name!r}: give {rule}")
    for part, path in given.items():
        kind, there = ("file", Path.is_file) if part.endswith("json") else ("folder", Path.is_dir)
        if not there(path):
            raise UserError(f"--data {name}: {options[part]} {path}: no such {kind}")
    return OwnData(name, {split: (given[f"{split}_images"], given[f"{split}_json"]) for split in SPLITS})


def _read(path: Path) -> tuple[str, dict[str, Path]]:
    import yaml

    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return str(content["name"]), {f"{split}_{part}": path.parent / str(content[split][part])
                                      for split in SPLITS for part in ("json", "images")}
    except FileNotFoundError:
        raise UserError(f"--data {path}: no such file") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise UserError(f"--data {path}: cannot be read as YAML with {FORM}") from None
