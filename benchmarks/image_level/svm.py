"""One linear SVM a class on given features: multi-label data, costs by cross-validation, average precision.

Facts are those of Goyal et al. (arXiv 1905.01235), as their fair_self_supervision_benchmark, tools/svm, runs them.
Imports no torch: joblib's processes load this module.
"""
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import precision_recall_curve
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from benchmarks.data.coco import read_coco
from detco.console import progress_bar, stop_if_asked
from detco.content import keep, kept


@dataclass(frozen=True)
class Labelled:
    """Images and what they show.

    Attributes:
        images: paths, M of them.
        present: bool [M, classes]; an object of the class is in the image.
        excluded: bool [M, classes]; only objects marked difficult (or crowds) of it are, so that the image is
            neither positive nor negative in testing. In training it counts as negative (train_svm_kfold.py).
    """

    images: list[Path]
    present: np.ndarray
    excluded: np.ndarray
    classes: tuple[str, ...]
    fingerprint: str

    def limit(self, n: int) -> "Labelled":
        """The first n images; another fingerprint, for results kept out of tables."""
        return self.take(range(len(self.images))[:n], str(n))

    def take(self, keep: Sequence[int], name: str) -> "Labelled":
        """Some of the images, under a fingerprint that ends in `name`."""
        return replace(self, images=[self.images[i] for i in keep], present=self.present[list(keep)],
                       excluded=self.excluded[list(keep)], fingerprint=f"{self.fingerprint}:{name}")


def labelled(annotations: Path, images: Path, fingerprint: str) -> Labelled:
    """Read a COCO annotation file of known content, objects marked by `difficult` or `iscrowd` apart. Raises DataError
    (`read_coco`)."""
    data = read_coco(annotations)
    row = {image["id"]: i for i, image in enumerate(data["images"])}
    column = {category["id"]: i for i, category in enumerate(data["categories"])}
    plain, hard = np.zeros((2, len(row), len(column)), bool)
    for a in data["annotations"]:
        marked = a.get("difficult") or a.get("iscrowd")
        (hard if marked else plain)[row[a["image_id"]], column[a["category_id"]]] = True
    return Labelled([images / image["file_name"] for image in data["images"]], plain, hard & ~plain,
                    tuple(category["name"] for category in data["categories"]), fingerprint)


def average_precision(present: np.ndarray, scores: np.ndarray) -> float:
    """Area under the precision-recall curve, precision made monotone: at each recall the best at it or above.

    The AP of VOC2010's development kit, without VOC07's eleven points; Goyal et al. (svm_helper.py) and PCL score
    VOC07 by it. Without the monotone step it would be sklearn's `average_precision_score`.

    Args:
        present: bool [M], one or more of them true.
        scores: float [M].
    """
    precision, recall, _ = precision_recall_curve(present, scores)  # from the highest recall to 0
    return float(-np.diff(recall) @ np.maximum.accumulate(precision)[:-1])


def machine(cost: float, settings: dict, seed: int) -> LinearSVC:
    """The classifier of one class, whose positives weigh `positive_weight` times as much as its negatives."""
    return LinearSVC(C=cost, class_weight={1: settings["positive_weight"]}, random_state=seed, **settings["machine"])


def choose(features: np.ndarray, present: dict[int, np.ndarray], settings: dict, seed: int, folder: Path,
           jobs: int = 1, label: str | None = None) -> dict[int, float]:
    """The cost of each class whose mean AP over the folds is highest; of equals the first in `settings`, as in Goyal et
    al.'s test_svm.py.

    Args:
        features: float64 [M, C].
        present: class number -> int [M], 1 where an image shows it.
        settings: `costs`, `folds`, `positive_weight` and LinearSVC's arguments `machine`.
        folder: takes each AP as soon as it is known; what is there is not computed again.
        jobs: processes.
        label: of the progress bar; None for none.
    """
    files = {i: folder / f"{i}.json" for i in present}
    found = {i: kept(file, dict[str, float]) or {} for i, file in files.items()}
    costs = settings["costs"]
    calls = [delayed(_validated)(i, cost, features, present[i], settings, seed)  # the longest come first
             for cost in sorted(costs, reverse=True) for i in present if str(cost) not in found[i]]
    for i, cost, ap in _spread(calls, jobs, label and f"{label}: costs"):
        found[i][str(cost)] = ap
        keep(files[i], found[i])
    return {i: max(costs, key=lambda cost: found[i][str(cost)]) for i in present}


def decide(features: np.ndarray, present: dict[int, np.ndarray], costs: dict[int, float], tested: np.ndarray,
           settings: dict, seed: int, jobs: int = 1, label: str | None = None) -> dict[int, np.ndarray]:
    """Each class's decision values [N] for the features `tested` [N, C], trained on all of `features`."""
    calls = [delayed(_decided)(i, cost, features, present[i], settings, seed, tested) for i, cost in costs.items()]
    return dict(_spread(calls, jobs, label and f"{label}: machines"))


def _spread(calls: list, jobs: int, label: str | None) -> Iterator:
    """Results in the order in which processes finish, under a progress bar."""
    with progress_bar(disable=label is None) as bar:
        results = Parallel(n_jobs=jobs, return_as="generator_unordered")(calls)
        for result in bar.track(results, total=len(calls), description=label or ""):
            stop_if_asked()
            yield result


def _validated(number, cost, features, present, settings, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # dear costs end at max_iter, as in the literature
        scores = cross_val_score(machine(cost, settings, seed), features, present, cv=settings["folds"],
                                 scoring="average_precision")
    return number, cost, float(scores.mean())


def _decided(number, cost, features, present, settings, seed, tested):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return number, machine(cost, settings, seed).fit(features, present).decision_function(tested)
