"""A mini scale that is drawn in a second."""
import pytest


@pytest.fixture(scope="module")
def drawn_data(tmp_path_factory):
    """A data folder with `pool` images in each of mini's pools, and scenes to train on and to be tested on."""
    from benchmarks.data import synthetic

    def draw(pool, train, val):
        root = tmp_path_factory.mktemp("data")
        for split in ("train", "val"):
            synthetic.write_pool(root / "mini", count=pool, split=split)
        synthetic.write_scenes(root / "mini" / "scenes", train=train, val=val)
        return root

    return draw
