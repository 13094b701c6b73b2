"""Detectors go on exactly where they stopped: images, draws and weights, with any number of loader workers."""
import json
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from benchmarks import run
from benchmarks.data import synthetic
from benchmarks.detection.stream import SeededLoop, stream

LIMIT = 8  # iterations, a state every second


class Draws(Dataset):
    """Nine images; what an item draws is all it holds."""

    def __len__(self):
        return 9

    def __getitem__(self, index):
        return np.array([index, np.random.rand(), torch.rand(1).item()])


def taken(count, start=0, workers=0, seed=3):
    loader = stream(DataLoader(Draws(), batch_sampler=BatchSampler(SequentialSampler(Draws()), 2, False),
                               num_workers=workers), seed)
    loader.batch_sampler.start = start
    return torch.stack(list(islice(loader, count)))


def test_a_stream_moved_to_a_batch_draws_what_it_would_have_drawn():
    whole = taken(12)
    assert torch.equal(taken(5, start=7), whole[7:]) and torch.equal(taken(5, start=7, workers=2), whole[7:])
    assert not torch.equal(taken(12, seed=4), whole)
    assert sorted(whole.flatten(0, 1)[:9, 0].tolist()) == list(range(9))  # an epoch has every image
    assert len(whole.flatten(0, 1)[:, 1:].unique()) == 48  # two draws an item, no two alike


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a shortened row gives, uninterrupted; and of one that is stopped in an iteration, or runs with workers."""
    root = tmp_path_factory.mktemp("data")
    synthetic.write_pool(root / "mini", count=80)
    synthetic.write_scenes(root / "mini" / "scenes", train=12, val=6)

    def result(stop=None, workers=0):
        folder = tmp_path_factory.mktemp("work")
        words = ["--method", "random_init", "--scale", "mini", "--limit", LIMIT, "--workers", workers, "--no-report",
                 "--data-root", root, "--work-dir", folder, "--results", folder / "results"]
        with pytest.MonkeyPatch.context() as patch:
            if stop:
                whole = SeededLoop.run_iter

                def stopped(self, batch):
                    if self._iter == stop:
                        raise KeyboardInterrupt
                    whole(self, batch)

                patch.setattr(SeededLoop, "run_iter", stopped)
                assert run.main(list(map(str, words))) == 130
        assert run.main(list(map(str, words))) == 0
        [path] = folder.glob("transfer/mini/coco_maskrcnn_c4/*/result.json")
        found = json.loads(path.read_text())
        assert found["cost"]["resumed"] is bool(stop)
        return found["detections"], found["metrics"], found["train_losses"]

    return result


def test_a_detector_stopped_and_resumed_gives_the_same_bits(results):
    whole = results()
    for stop in (3, 7):  # one iteration after a state, and in the last
        assert results(stop) == whole
    assert results(5, workers=1) == whole
