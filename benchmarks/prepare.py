"""Make a scale's data, or check a public data set and put it in its place for the `paper` scale.

    python benchmarks/prepare.py small --coco DIR --imagenette DIR
    python benchmarks/prepare.py small --from-archives DIR
    python benchmarks/prepare.py mini
    python benchmarks/prepare.py coco --coco DIR
    python benchmarks/prepare.py voc --voc DIR
    python benchmarks/prepare.py cityscapes --cityscapes DIR
    python benchmarks/prepare.py imagenet --imagenet DIR

What belongs to the small scale is written down in configs/data/small: names of Imagenette's photos, and ids of COCO's
photos and annotations. `mini` is drawn by the package. The public data sets stay where they are: links under the data
folder lead to them, and what is converted or unpacked lies there. Stop at any moment: the same command goes on with
what is missing.
"""
import argparse
import sys
from pathlib import Path

from benchmarks.data import downloads
from benchmarks.data.coco import DataError
from benchmarks.data.small import prepare_small
from benchmarks.data.small_definition import DEFINITION, Definition
from benchmarks.data.small_originals import Archives, Public
from benchmarks.data.synthetic_sets import draw_all
from benchmarks.errors import ended
from detco.console import CONSOLE, log

PUBLIC = {"coco": downloads.prepare_coco, "voc": downloads.prepare_voc, "cityscapes": downloads.prepare_cityscapes,
          "imagenet": downloads.prepare_imagenet}


def prepare_mini(root: Path) -> None:
    """Draw root/mini's pools, scenes and their forms for the tasks, unless they are there."""
    with CONSOLE.status("drawing"):
        draw_all(root / "mini")
    log(f"mini: all there in {(root / 'mini').resolve()}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("name", choices=("small", "mini", *PUBLIC), help="the scale, or the public data set")
    p.add_argument("--coco", type=Path, metavar="DIR",
                   help="small, coco: COCO 2017, with train2017/, val2017/ and annotations/ (cocodataset.org)")
    p.add_argument("--imagenette", type=Path, metavar="DIR",
                   help="small: Imagenette version 2, with train/ and val/ (imagenette2, or imagenette2-320)")
    p.add_argument("--from-archives", type=Path, metavar="DIR",
                   help="small: in their place, the folder of imagenette_128_{train,val}.zip and coco_photos_256.zip")
    p.add_argument("--voc", type=Path, metavar="DIR", help="voc: VOCdevkit, with VOC2007/ and VOC2012/")
    p.add_argument("--cityscapes", type=Path, metavar="DIR", help="cityscapes: with leftImg8bit/ and gtFine/")
    p.add_argument("--imagenet", type=Path, metavar="DIR",
                   help="imagenet: class folders in train/ and val/, or ILSVRC2012_img_train.tar, _img_val.tar and "
                        "_devkit_t12.tar.gz, unpacked into the data folder")
    p.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="where to (default: data)")
    p.add_argument("--definition", type=Path, default=DEFINITION, metavar="DIR",
                   help="small: other lists of names and ids (default: configs/data/small)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run; the exit status (`benchmarks.errors.ended`)."""
    arguments = parser().parse_args(argv)
    return ended(lambda: prepare(arguments), arguments.data_root)


def prepare(arguments: argparse.Namespace) -> int:
    """What the command line asks for. Raises DataError, in one line, for what is missing or broken."""
    name, root = arguments.name, arguments.data_root
    if name == "mini":
        prepare_mini(root)
    elif name in PUBLIC:
        if not (source := getattr(arguments, name)):
            raise DataError(f"{name}: give --{name} DIR; --help says what it holds")
        PUBLIC[name](source, root)
        log(f"{name}: all there in {(root / name).absolute()}")
    else:
        prepare_small(_source(arguments), root, Definition.load(arguments.definition))
    return 0


def _source(arguments: argparse.Namespace) -> Archives | Public:
    public = (arguments.coco, arguments.imagenette)
    if arguments.from_archives and not any(public):
        return Archives(arguments.from_archives)
    if all(public) and not arguments.from_archives:
        return Public(*public)
    raise DataError("small: give either --coco DIR and --imagenette DIR, or --from-archives DIR; --help says more")


if __name__ == "__main__":
    sys.exit(main())
