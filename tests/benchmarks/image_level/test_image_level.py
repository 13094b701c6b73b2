"""Linear probe, k-NN and VOC07 SVM: the protocols' facts, and sklearn's and torchvision's figures on the same data."""
import json
from functools import reduce
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.svm import LinearSVC
from torch import distributed, multiprocessing, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import transforms

from benchmarks.data.coco import DataError
from benchmarks.image_level import features, probes, svm
from benchmarks.task import load_task, resolve
from detco import checkpoint as checkpoints
from detco import engine
from detco.backbone import ResNetLevels
from detco.content import keep, kept
from detco.files import sha256
from detco.pool import FolderPool, MemoryPool
from detco.views import MEAN, STD, View

MOCO, GOYAL = "MoCo, main_lincls.py: ", "fair_self_supervision_benchmark, tools/svm: "
DETCO = "DetCo's repository, benchmarks/"
FACTS = [  # (task, source, key of the config, value)
    ("imagenet_linear", MOCO + "lr 30", "optimizer.lr", 30.0),
    ("imagenet_linear", MOCO + "momentum 0.9", "optimizer.momentum", 0.9),
    ("imagenet_linear", MOCO + "no weight decay", "optimizer.weight_decay", 0.0),
    ("imagenet_linear", MOCO + "batch 256", "data.total_batch", 256),
    ("imagenet_linear", MOCO + "100 epochs, steps 60, 80", "schedules.100ep", dict(epochs=100, milestones=[60, 80])),
    ("imagenet_linear", MOCO + "RandomResizedCrop's area", "view.area", (0.08, 1.0)),
    ("imagenet_linear", MOCO + "RandomHorizontalFlip", "view.flip_p", 0.5),
    ("imagenet_linear", MOCO + "no colour jitter", "view.jitter_p", 0.0),
    ("imagenet_linear", MOCO + "no grey", "view.grey_p", 0.0),
    ("imagenet_linear", MOCO + "no blur", "view.blur_p", 0.0),
    ("imagenet_linear", MOCO + "normal of 0.01", "classifier.std", 0.01),
    ("imagenet_linear", "docs/protocols.md: top-1, top-5", "task.metrics", ["top1", "top5", "top1_best"]),
    ("knn", "docs/protocols.md: k 200", "knn.k", 200),
    ("knn", "docs/protocols.md: temperature 0.07", "knn.temperature", 0.07),
    ("voc07_svm", GOYAL + "three folds", "svm.folds", 3),
    ("voc07_svm", GOYAL + "positives weigh twice", "svm.positive_weight", 2.0),
    ("voc07_svm", GOYAL + "squared hinge", "svm.machine.loss", "squared_hinge"),
    ("voc07_svm", GOYAL + "2000 iterations", "svm.machine.max_iter", 2000),
    ("voc07_svm", GOYAL + "tolerance", "svm.machine.tol", 1e-4),
    ("voc07_svm", GOYAL + "dual", "svm.machine.dual", True),
    ("voc07_svm", "docs/protocols.md: mAP", "task.metrics", ["mAP"]),
    *((task, "resize 256, centre crop 224", f"data.{key}", value) for task in ("imagenet_linear", "knn")
      for key, value in (("resize", 256), ("crop", 224))),
    ("voc07_svm", DETCO + "extract_info/voc07.py", "data", dict(source="voc07_labels", resize=256, squeeze=224)),
    ("voc07_svm", "OpenSelfSup, MultiPooling: feat5 is 2 x 2", "features.grid", 2),
    ("voc07_svm", DETCO + "svm_tools/eval_svm_full.sh, svm_helper.py", "svm.costs",
     [1.0, 10.0, 100.0] + [0.5**i for i in range(4, 20)]),
]


@pytest.mark.parametrize("task, source, key, value", FACTS)
def test_fact(task, source, key, value):
    found = reduce(lambda node, part: node[part], key.split("."), load_task(task))
    assert found == value, source


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A ResNet-18 whose batch norm has statistics of its own."""
    torch.manual_seed(7)
    backbone = ResNetLevels("resnet18")
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.8, 1.5)
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors"
    return checkpoints.save(path, backbone.state_dict(), {"arch": "resnet18"})


def make_pool(count, seed, size=40):
    """Images whose mean colour hints at their class, three classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 200, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    images[torch.arange(count), labels] += 25
    return MemoryPool(images, labels, ["a", "b", "c"], f"{seed}" * 64)


LINEAR = {"data.resize": 36, "data.crop": 32, "data.total_batch": 8, "optimizer.lr": 0.05,
          "view.area": (0.5, 1.0), "schedules": {"": dict(epochs=2, milestones=[1])}}
KNN = {"data.resize": 36, "data.crop": 32, "knn.k": 7}
SVM = {"data.resize": 36, "data.squeeze": 64, "svm.costs": [0.01, 0.1, 1.0], "svm.machine.max_iter": 200}


def make_job(task, changes, checkpoint, data, work_dir, **more):
    config = resolve(load_task(task), "resnet18", len(data.classes), changes).to_dict()
    schedule = next(iter(config.pop("schedules", {"": None}).values()))
    protocol = SimpleNamespace(task=task, config=config | dict(arch="resnet18", schedule=schedule))
    return SimpleNamespace(**dict(protocol=protocol, data=data, name="row", seed=0, identity=sha256(checkpoint),
                                  checkpoint_path=checkpoint,
                                  checkpoint=checkpoints.load(checkpoint), work_dir=work_dir, resume=True, load=True,
                                  limit=None, workers=0) | more)


@pytest.fixture
def pools():
    return SimpleNamespace(train=make_pool(30, 1), val=make_pool(21, 2), classes=("a", "b", "c"), fingerprint="d" * 64)


@pytest.fixture
def photos(tmp_path):
    """Class folders of losslessly kept images of several sizes."""
    generator = np.random.default_rng(0)
    for i in range(6):
        folder = tmp_path / "photos" / "abc"[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((60 + i, 50), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return FolderPool.load(tmp_path / "photos")


# Frozen features

def test_features_are_torchvisions_pooled_ones(checkpoint, photos, pools, tmp_path):
    net = torchvision.models.resnet18(weights=None)
    net.fc = nn.Identity()
    net.load_state_dict(checkpoints.load(checkpoint).state)
    view = transforms.Compose([transforms.Resize(36), transforms.CenterCrop(32), transforms.ToTensor(),
                               transforms.Normalize(MEAN, STD)])
    model, report = features.frozen(make_job("knn", KNN, checkpoint, pools, tmp_path))
    assert report["loaded"] == 120 and not report["missing"] and not report["fresh"]
    with torch.no_grad():
        theirs = net.eval()(torch.stack([view(Image.open(path).convert("RGB")) for path in photos.images]))
    ours = model.of_crops(features.Squares(photos.images, dict(resize=36, crop=32))[list(range(6))])
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side, kernel", [(96, 2), (224, 6)])
def test_squeezed_images_pooled_to_2_x_2(side, kernel, checkpoint, photos, pools, tmp_path):
    """OpenSelfSup's feat5: windows of all but a cell of C5's side, a cell apart."""
    net = torchvision.models.resnet18(weights=None)
    net.avgpool, net.fc = nn.AvgPool2d(kernel, stride=1), nn.Identity()
    net.load_state_dict(checkpoints.load(checkpoint).state)
    view = transforms.Compose([transforms.Resize(110), transforms.Resize((side, side)), transforms.ToTensor(),
                               transforms.Normalize(MEAN, STD)])
    model, _ = features.frozen(make_job("voc07_svm", SVM, checkpoint, pools, tmp_path))
    with torch.no_grad():
        theirs = net.eval()(torch.stack([view(Image.open(path).convert("RGB")) for path in photos.images]))
    ours = model.of_crops(features.Squares(photos.images, dict(resize=110, squeeze=side))[list(range(6))])
    assert ours.shape == (6, 2048) and model.channels == 2048
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_backbone_stays_frozen_and_its_statistics_fixed(checkpoint, pools, tmp_path):
    model, _ = features.frozen(make_job("knn", KNN, checkpoint, pools, tmp_path))
    model.train()
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_unloaded_backbone_is_as_the_seed_initialises_it(checkpoint, pools, tmp_path):
    job = make_job("knn", KNN, checkpoint, pools, tmp_path, load=False, seed=3)
    model, report = features.frozen(job)
    torch.manual_seed(3)
    assert report == {} and torch.equal(model.backbone.conv1.weight, ResNetLevels("resnet18").conv1.weight)


def test_extraction_goes_on_by_chunks_and_is_shared_by_seeds(checkpoint, pools, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 8)
    monkeypatch.setattr(features, "BATCH", 3)
    job = make_job("knn", KNN, checkpoint, pools, tmp_path / "row-seed0")
    model, _ = features.frozen(job)
    computed, of_crops = [], model.of_crops

    def counted(crops, until=10**6):
        if len(computed) == until:
            raise KeyboardInterrupt
        computed.append(len(crops))
        return of_crops(crops)

    with pytest.raises(KeyboardInterrupt):
        model.of_crops = lambda crops: counted(crops, until=5)
        features.extract(job, model, pools.train.images, "train")
    assert computed == [3, 3, 2, 3, 3]  # the second chunk was not finished
    model.of_crops = counted
    paths = features.extract(job, model, pools.train.images, "train")
    assert computed[5:] == [3, 3, 2, 3, 3, 2, 3, 3]
    assert [np.load(path).shape for path in paths] == [(8, 512)] * 3 + [(6, 512)]
    expected = nn.functional.normalize(of_crops(features.Squares(pools.train.images, job.protocol.config["data"])
                                                [list(range(30))]))
    assert torch.allclose(probes._features(paths), expected, atol=2e-4)
    other = make_job("knn", KNN, checkpoint, pools, tmp_path / "row-seed1", seed=1)
    assert features.extract(other, model, pools.train.images, "train") == paths and len(computed) == 13
    for harm in (dict(limit=1), dict(load=False), dict(protocol=make_job(
            "knn", KNN | {"data.resize": 34}, checkpoint, pools, tmp_path).protocol)):
        changed = SimpleNamespace(**vars(job) | harm)
        assert features.extract(changed, model, pools.val.images[:1], "train")[0].parent != paths[0].parent


def test_an_image_that_cannot_be_decoded_is_named(photos):
    with open(photos.images[2], "wb") as file:
        file.write(b"broken")
    with pytest.raises(DataError, match=photos.images[2]):
        features.Squares(photos.images, dict(resize=36, crop=32))[[1, 2]]


# Scores

def test_accuracy_counts_by_hand():
    scores = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3], [0, 3, 1, 2]])
    labels = torch.tensor([0, 1, 0, 1])
    batches = [(scores[:3], labels[:3]), (scores[3:], labels[3:])]
    metrics, per_class = probes.accuracy(batches, "abcd", ["top1", "top2"])
    assert metrics == {"top1": 50.0, "top2": 75.0}
    assert per_class == {"top1": {"a": 50.0, "b": 50.0, "c": None, "d": None}}
    assert probes.accuracy([(scores, labels)], "abcd", ["top1", "top5"])[0]["top5"] == 100.0


# Linear probe

class Pixels(nn.Module):
    """Stands for a backbone: the normalised image itself is the feature."""

    channels = 27

    def forward(self, images):
        return images.flatten(1)


def test_converged_classifier_is_sklearns(tmp_path):
    """Softmax regression with weight decay has one optimum; sklearn's, the bias being a feature of ones there too."""
    generator = torch.Generator().manual_seed(0)
    pool = MemoryPool(torch.randint(0, 256, (60, 3, 3, 3), dtype=torch.uint8, generator=generator),
                      torch.randint(0, 3, (60,), generator=generator), ["a", "b", "c"], "f" * 64)
    decay = 0.03
    view = View(size=3, area=(1.0, 1.0), flip_p=0, jitter_p=0, grey_p=0, blur_p=0)
    probe = probes.LinearProbe(Pixels(), 3, view, 0.01)
    config = dict(schedule=dict(epochs=500, batch=60, policy="step", milestones=[400]), workers=0, amp=True,
                  max_broken=0.0, optimizer=dict(lr=0.1, momentum=0.9, weight_decay=decay))
    engine.runner_of(probe, pool, config, 500, tmp_path, 0, "probe").train()
    x = ((pool.images / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).flatten(1)
    x = torch.cat([x, torch.ones(60, 1)], 1).double().numpy()
    sklearn = LogisticRegression(C=1 / (decay * 60), fit_intercept=False, tol=1e-10, max_iter=5000).fit(x, pool.labels)
    ours = torch.cat([probe.classifier.weight, probe.classifier.bias[:, None]], 1).detach().double().numpy()
    assert np.abs(ours - sklearn.coef_).max() < 1e-4


def test_probe_starts_as_moco_does():
    torch.manual_seed(0)
    encoder = nn.Identity()
    encoder.channels = 2048
    probe = probes.LinearProbe(encoder, 1000, View(), 0.01)
    assert abs(probe.classifier.weight.std().item() - 0.01) < 1e-4 and not probe.classifier.bias.any()


def test_linear_resumes_bit_identically_and_leaves_the_backbone_alone(checkpoint, pools, tmp_path, monkeypatch):
    built = []
    build = probes.LinearProbe
    monkeypatch.setattr(probes, "LinearProbe", lambda *args: built.append(build(*args)) or built[-1])
    whole = probes.linear(make_job("imagenet_linear", LINEAR, checkpoint, pools, tmp_path / "whole"))
    after = engine.MethodHook.after_train_iter

    def stop(self, runner, *args, **kwargs):
        if runner.iter == 5:
            raise KeyboardInterrupt
        after(self, runner, *args, **kwargs)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(engine.MethodHook, "after_train_iter", stop)
        probes.linear(make_job("imagenet_linear", LINEAR, checkpoint, pools, tmp_path / "parts"))
    parts = probes.linear(make_job("imagenet_linear", LINEAR, checkpoint, pools, tmp_path / "parts"))
    assert torch.equal(built[0].classifier.weight, built[2].classifier.weight)
    assert parts["metrics"] == whole["metrics"] and parts["train_losses"] == whole["train_losses"]
    for key, value in checkpoints.load(checkpoint).state.items():
        assert torch.equal(built[0].encoder.backbone.state_dict()[key], value)
    assert whole["metrics"]["top1"] > 50 and whole["metrics"]["top5"] == 100
    assert whole["load_report"]["loaded"] == 120 and whole["load_report"]["fresh"] == ["classifier"]
    assert json.dumps(whole) and set(whole["per_class"]["top1"]) == set("abc")


def test_the_best_epoch_is_reported_beside_the_last_and_changes_no_weight(checkpoint, pools, tmp_path, monkeypatch):
    built, seen = [], []
    build, accuracy = probes.LinearProbe, probes.accuracy
    monkeypatch.setattr(probes, "LinearProbe", lambda *args: built.append(build(*args)) or built[-1])
    changes = LINEAR | {"schedules": {"": dict(epochs=4, milestones=[1])}}

    def falling(*args):
        metrics, per_class = accuracy(*args)
        seen.append(metrics["top1"])
        return metrics | dict(top1=90.0 - len(seen)), per_class

    whole = probes.linear(make_job("imagenet_linear", changes, checkpoint, pools, tmp_path / "whole"))
    with monkeypatch.context() as context:
        context.setattr(probes, "accuracy", falling)
        after = engine.MethodHook.after_train_iter

        def stop(self, runner, *args, **kwargs):
            if runner.iter == 9:
                raise KeyboardInterrupt
            after(self, runner, *args, **kwargs)

        with context.context() as stopping, pytest.raises(KeyboardInterrupt):
            stopping.setattr(engine.MethodHook, "after_train_iter", stop)
            probes.linear(make_job("imagenet_linear", changes, checkpoint, pools, tmp_path / "parts"))
        assert len(seen) == 2  # 30 images in batches of 8: epochs end after steps 4, 8, 12, 15
        parts = probes.linear(make_job("imagenet_linear", changes, checkpoint, pools, tmp_path / "parts"))
    assert len(seen) == 5 and parts["metrics"]["top1_best"] == 89.0 and parts["metrics"]["top1"] == 85.0
    assert seen[-1] == seen[-2] == whole["metrics"]["top1"] and whole["metrics"]["top1_best"] == max(seen)
    monkeypatch.setattr(probes.BestEpoch, "after_train_iter", lambda *args, **kwargs: None)
    without = probes.linear(make_job("imagenet_linear", changes, checkpoint, pools, tmp_path / "without"))
    assert torch.equal(built[0].classifier.weight, built[3].classifier.weight)
    assert torch.equal(built[0].classifier.weight, built[2].classifier.weight)
    assert without["metrics"]["top1_best"] == without["metrics"]["top1"] == whole["metrics"]["top1"]


def test_linear_rate_falls_at_its_milestones_and_a_limit_shortens_it(checkpoint, pools, tmp_path, monkeypatch):
    rates = []
    after = engine.MethodHook.after_train_iter
    monkeypatch.setattr(engine.MethodHook, "after_train_iter", lambda self, runner, *a, **k: rates.append(
        runner.optim_wrapper.get_lr()["lr"][0]) or after(self, runner, *a, **k))
    probes.linear(make_job("imagenet_linear", LINEAR, checkpoint, pools, tmp_path / "whole"))
    assert rates == pytest.approx([0.05] * 4 + [0.005] * 4)  # 60 images of two epochs, in batches of 8
    rates.clear()
    measured = probes.linear(make_job("imagenet_linear", LINEAR, checkpoint, pools, tmp_path / "cut", limit=2))
    assert len(rates) == 2 and sum(v is not None for v in measured["per_class"]["top1"].values()) <= 2


# k-NN

@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_neighbours_are_brute_force_for_any_block(block):
    generator = torch.Generator().manual_seed(0)
    queries, bank = (nn.functional.normalize(torch.randn(n, 16, generator=generator)) for n in (9, 300))
    similarity, index = probes.nearest(queries, bank.split(block), 20)
    expected = (queries @ bank.T).topk(20)
    assert torch.equal(index.long(), expected.indices) and torch.allclose(similarity, expected.values, atol=1e-6)
    assert probes.nearest(queries, bank[:5].split(block), 20)[1].shape == (9, 5)  # a bank smaller than k


def test_votes_are_sklearns():
    generator = torch.Generator().manual_seed(0)
    queries, bank = (nn.functional.normalize(torch.randn(n, 16, generator=generator)) for n in (40, 300))
    labels = torch.randint(0, 5, (300,), generator=generator)
    sklearn = KNeighborsClassifier(20, algorithm="brute", weights=lambda d: np.exp((1 - d**2 / 2) / 0.07))
    theirs = sklearn.fit(bank.double().numpy(), labels).predict_proba(queries.double().numpy())
    similarity, index = probes.nearest(queries, bank.split(64), 20)
    ours = probes.votes(similarity, labels[index], 0.07, 5)
    assert np.abs((ours / ours.sum(1, keepdim=True)).numpy() - theirs).max() < 1e-5


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor made."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("blocks", [3, 30])
def test_memory_does_not_grow_with_the_bank(blocks):
    queries, bank = torch.randn(50, 8), (torch.randn(64, 8) for _ in range(blocks))
    with Largest() as largest:
        probes.nearest(queries, bank, 20)
    assert largest.bytes == 50 * (20 + 64) * 4  # a block's products beside the best so far
    # At paper scale: 50,000 queries, k 200, blocks of CHUNK; ten such tensors would fit.
    assert 10 * 50_000 * (200 + features.CHUNK) * 4 < 8 * 2**30


def test_knn_is_sklearns_on_its_own_features(checkpoint, pools, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 8)
    # These features are alike: only at a low temperature do their weights matter.
    job = make_job("knn", KNN | {"knn.k": 15, "knn.temperature": 0.002}, checkpoint, pools, tmp_path / "row")
    measured = probes.knn(job)
    model, _ = features.frozen(job)
    bank, queries = (probes._features(features.extract(job, model, getattr(pools, split).images, split))
                     for split in ("train", "val"))
    top1 = []
    for temperature in (0.002, 7):
        sklearn = KNeighborsClassifier(
            15, algorithm="brute", weights=lambda d, t=temperature: np.exp((1 - d**2 / 2) / t))
        sklearn.fit(bank.double().numpy(), pools.train.labels)
        top1.append(100 * sklearn.score(queries.double().numpy(), pools.val.labels))
    assert measured["metrics"] == {"top1": pytest.approx(top1[0])} and top1[0] != top1[1] and json.dumps(measured)
    folders = SimpleNamespace(train=photos, val=photos, classes=tuple("abc"), fingerprint="e" * 64)
    itself = make_job("knn", KNN | {"knn.k": 1}, checkpoint, folders, tmp_path / "itself")
    assert probes.knn(itself)["metrics"] == {"top1": 100.0}


# SVM

def test_average_precision_by_hand_and_beside_others():
    from benchmarks.detection import modules  # noqa: F401, I001 - before mmdet

    from mmdet.evaluation.functional import average_precision

    present, scores = np.array([1, 0, 0, 1, 1], bool), np.array([5.0, 4, 3, 2, 1])
    # Precision 1, 1/2, 1/3, 2/4, 3/5; from recall 1/3 on the best still to come is 3/5.
    assert svm.average_precision(present, scores) == pytest.approx((1 + 3 / 5 + 3 / 5) / 3)
    falling = np.array([1, 1, 0, 1, 0, 0], bool), np.arange(6)[::-1].astype(float)
    assert svm.average_precision(*falling) == pytest.approx(average_precision_score(*falling))
    generator = np.random.default_rng(0)
    for _ in range(20):
        present, scores = generator.random(50) < 0.3, generator.random(50)
        hit = present[np.argsort(-scores)]
        recall, precision = hit.cumsum() / hit.sum(), hit.cumsum() / np.arange(1, 51)
        theirs = average_precision(recall[None].astype(np.float32), precision[None].astype(np.float32), "area")[0]
        ours = svm.average_precision(present, scores)
        assert ours == pytest.approx(theirs, abs=1e-6) and ours >= average_precision_score(present, scores)


@pytest.fixture
def coco(tmp_path):
    """Twenty-four photos and a COCO file: category 9 in every third, 4 in every second, some marked difficult."""
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(24):
        pixels = generator.integers(0, 200, (40, 44, 3), dtype=np.uint8)
        pixels[..., 0] += 50 * (i % 3 == 0)
        pixels[..., 1] += 50 * (i % 2 == 0)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        images.append(dict(id=100 + i, file_name=f"{i}.png", width=44, height=40))
        for category, every in ((9, 3), (4, 2)):
            if i % every == 0:
                annotations.append(dict(id=len(annotations), image_id=100 + i, category_id=category, bbox=[0, 0, 9, 9]))
    annotations[0]["difficult"] = 1  # photo 0: the only object of category 9
    annotations.append(dict(id=99, image_id=101, category_id=9, bbox=[0, 0, 9, 9], iscrowd=1))
    annotations.append(dict(id=98, image_id=103, category_id=9, bbox=[0, 0, 9, 9], iscrowd=1))  # beside a plain one
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=[
        dict(id=9, name="nine"), dict(id=4, name="four"), dict(id=5, name="five")])))
    return path


def test_labels_of_a_coco_file(coco):
    part = svm.labelled(coco, coco.parent, "c" * 64)
    assert part.classes == ("nine", "four", "five") and part.images[3] == coco.parent / "3.png"
    assert np.flatnonzero(part.present[:, 0]).tolist() == [3, 6, 9, 12, 15, 18, 21]
    assert np.flatnonzero(part.excluded[:, 0]).tolist() == [0, 1]
    assert part.present[:, 1].sum() == 12 and not part.excluded[:, 1:].any()
    cut = part.limit(5)
    assert len(cut.images) == len(cut.present) == len(cut.excluded) == 5 and cut.fingerprint != part.fingerprint


def data_of(coco, classes=2):
    part = svm.labelled(coco, coco.parent, "c" * 64)
    part = svm.replace(part, classes=part.classes[:classes], present=part.present[:, :classes],
                       excluded=part.excluded[:, :classes])
    return SimpleNamespace(train=part, val=part, classes=part.classes, fingerprint="c" * 64)


SETTINGS = dict(costs=[0.1, 0.01, 1.0], folds=3, positive_weight=2.0, machine=dict(
    penalty="l2", loss="squared_hinge", dual=True, tol=1e-4, max_iter=200, intercept_scaling=1.0))


def test_costs_and_decisions_are_sklearns_and_go_on_after_a_stop(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    raw, tested = generator.normal(size=(90, 20)), generator.normal(size=(30, 20))
    present = {3: (raw[:, 0] + generator.normal(size=90) > 0.5).astype(int)}

    def pipeline(cost):
        return make_pipeline(Normalizer(), LinearSVC(C=cost, class_weight={0: 1, 1: 2}, max_iter=200, random_state=5,
                                                     loss="squared_hinge", dual=True))

    x, y = (Normalizer().fit_transform(part) for part in (raw, tested))
    expected = {str(c): cross_val_score(pipeline(c), raw, present[3], cv=3, scoring="average_precision").mean()
                for c in SETTINGS["costs"]}
    costs = svm.choose(x, present, SETTINGS, 5, tmp_path)
    assert kept(tmp_path / "3.json", dict) == pytest.approx(expected, abs=1e-12)
    assert str(costs[3]) == max(expected, key=expected.get)
    ours = svm.decide(x, present, costs, y, SETTINGS, 5)[3]
    assert np.array_equal(ours, pipeline(costs[3]).fit(raw, present[3]).decision_function(tested))
    with monkeypatch.context() as context:
        context.setattr(svm, "_validated", lambda *args: pytest.fail("computed again"))
        assert svm.choose(x, present, SETTINGS, 5, tmp_path) == costs
    assert svm.choose(x, present, SETTINGS, 5, tmp_path / "two", jobs=2) == costs
    assert kept(tmp_path / "two" / "3.json", dict) == pytest.approx(expected, abs=0)


def test_of_equal_scores_the_first_cost_of_the_list_is_taken(tmp_path):
    keep(tmp_path / "0.json", {"0.01": 0.6, "0.1": 0.4, "1.0": 0.6})
    assert svm.choose(None, {0: None}, SETTINGS, 0, tmp_path) == {0: 0.01}
    assert svm.choose(None, {0: None}, SETTINGS | dict(costs=[1.0, 0.01, 0.1]), 0, tmp_path) == {0: 1.0}


def test_svm_leaves_out_what_is_excluded(coco, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(probes.joblib, "cpu_count", lambda: 1)
    data = data_of(coco)
    measured = probes.svm(make_job("voc07_svm", SVM, checkpoint, data, tmp_path / "row"))
    assert set(measured["per_class"]["AP"]) == {"nine", "four"} and json.dumps(measured)
    assert measured["metrics"]["mAP"] == pytest.approx(np.mean(list(measured["per_class"]["AP"].values())))
    # The worst decisions for what is excluded change nothing; for what is not, they do.
    decide = svm.decide

    def harmed(photo):
        def decisions(*args):
            return {i: np.where(np.arange(24) == photo, 1e9, values) for i, values in decide(*args).items()}
        with monkeypatch.context() as context:
            context.setattr(svm, "decide", decisions)
            job = make_job("voc07_svm", SVM, checkpoint, data, tmp_path / "row")
            return probes.svm(job)["per_class"]["AP"]["nine"]

    assert harmed(0) == harmed(1) == measured["per_class"]["AP"]["nine"] > harmed(2)


def test_a_class_too_rare_for_the_folds_is_named(coco, checkpoint, tmp_path):
    with pytest.raises(DataError, match=r"1 category \(five\) with fewer than 3 images"):
        probes.svm(make_job("voc07_svm", SVM, checkpoint, data_of(coco, 3), tmp_path / "row"))


def test_a_class_no_tested_image_shows_has_no_score(coco, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(probes.joblib, "cpu_count", lambda: 1)
    measured = probes.svm(make_job("voc07_svm", SVM, checkpoint, data_of(coco), tmp_path / "row", limit=3))
    assert measured["per_class"]["AP"] == {"nine": None, "four": measured["metrics"]["mAP"]}


# Ranks

def _measure(checkpoint, pools, coco, folder):
    still = {"view.area": (1.0, 1.0), "view.flip_p": 0.0}  # ranks draw views of their own
    return [probes.linear(make_job("imagenet_linear", LINEAR | still, checkpoint, pools, folder / "linear")),
            probes.knn(make_job("knn", KNN, checkpoint, pools, folder / "knn")),
            probes.svm(make_job("voc07_svm", SVM, checkpoint, data_of(coco), folder / "svm"))]


def _rank(rank, store, *measured):
    """What one of two processes measures. The first is pytest's own: a second import of everything is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")  # as torchrun
        patch.setattr(features, "CHUNK", 8)
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
        try:
            return _measure(*measured)
        finally:
            distributed.destroy_process_group()


def test_two_ranks_measure_what_one_does(checkpoint, pools, coco, tmp_path, monkeypatch):
    monkeypatch.setattr(probes.joblib, "cpu_count", lambda: 1)
    one = _measure(checkpoint, pools, coco, tmp_path / "one")
    work = tmp_path / "store", checkpoint, pools, coco, tmp_path / "two"
    other = multiprocessing.get_context("spawn").Process(target=_rank, args=(1, *work), daemon=True)
    other.start()
    two = _rank(0, *work)
    other.join()
    assert other.exitcode == 0
    for ours, theirs in zip(two, one, strict=True):
        assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-6)
        assert ours["per_class"] == theirs["per_class"]
