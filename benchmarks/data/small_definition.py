"""What belongs to the `small` scale: names of photos and ids of annotations, with their fingerprint."""
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.coco import DataError, read_json
from benchmarks.data.sources import POOLS
from detco.config import CONFIGS

DEFINITION = CONFIGS / "data" / "small"
SETS = ("person_train", "person_val", "objects_train", "objects_val")


@dataclass(frozen=True)
class Definition:
    """What belongs to the small scale.

    Attributes:
        pools: split -> Imagenette's photos as 'wnid/stem', sorted: the pool's order.
        sets: COCO set -> image id -> ids of its annotations.
        digests: list -> counts and sha256. Names and ids alone enter it, so it does not depend on a decoder.
    """

    pools: dict[str, list[str]]
    sets: dict[str, dict[int, list[int]]]
    digests: dict[str, dict]

    @classmethod
    def load(cls, folder: Path = DEFINITION) -> "Definition":
        """Read the lists. Raises DataError where one is missing or not the one the fingerprint was taken of."""
        def lines(name: str) -> list[str]:
            try:
                return (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()
            except FileNotFoundError:
                raise DataError(f"{folder / name}.txt: this list of the definition is missing; restore it") from None

        pools = {split: sorted(lines(f"imagenette_{split}")) for split in POOLS}
        rows = {name: lines(name) for name in SETS}
        try:
            sets = {name: {image: ids for image, *ids in (map(int, row.split()) for row in rows[name])}
                    for name in SETS}
        except ValueError as error:
            raise DataError(f"{folder}: a list of ids holds something else ({error}); restore it") from None
        definition = cls(pools, sets, read_json(folder / "fingerprint.json"))
        for name, found in digests(pools, sets).items():
            if found != definition.digests.get(name):
                raise DataError(f"{folder / name}.txt: not the list fingerprint.json was taken of; restore one of them")
        return definition

    @property
    def photos(self) -> list[int]:
        """Ids of every COCO photo of any set."""
        return sorted(set().union(*self.sets.values()))


def digests(pools: dict[str, list[str]], sets: dict[str, dict[int, list[int]]]) -> dict[str, dict]:
    """Counts and sha256 of each list; the order of lines and of ids does not matter."""
    def sha256(lines: Iterable[str]) -> str:
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()

    return {f"imagenette_{split}": dict(images=len(names), sha256=sha256(names)) for split, names in pools.items()} | {
        name: dict(images=len(images), annotations=sum(map(len, images.values())),
                   sha256=sha256(" ".join(map(str, [image, *sorted(ids)])) for image, ids in images.items()))
        for name, images in sets.items()}
