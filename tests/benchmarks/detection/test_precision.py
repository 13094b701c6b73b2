"""--amp: networks in bfloat16, coordinates and losses in float32; a protocol and tables of its own."""
import json
from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope

from benchmarks import plan, run
from benchmarks.cli import request_of
from benchmarks.detection import modules  # noqa: F401 - registers itself
from benchmarks.detection.precision import in_bfloat16
from benchmarks.transfer import _used
from detco.errors import UserError
from tests.benchmarks.detection.test_parts import batch_of, config_of


def tensors(value):
    """Those in lists and tuples."""
    return [value] if torch.is_tensor(value) else [one for part in value for one in tensors(part)]


def losses_and_types(task, tmp_path, amp):
    """A detector's losses and gradients on two images, and the types of what its parts are given and give."""
    config = config_of(task, tmp_path)["model"]
    if "roi_head" in config:  # the batch has no masks
        config["roi_head"]["mask_head"], config["data_preprocessor"]["pad_mask"] = None, False
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(config)).train()
    types = {}

    def watch(name):
        def hook(module, inputs, output):
            found = [value for part in (inputs, output) for value in tensors(part)]
            types[name] = {value.dtype for value in (found if "extractor" in name else tensors(output))}
        return hook

    model = in_bfloat16(model) if amp else model
    for name, module in model.named_modules():
        if name in ("backbone.layer1", "bbox_head", "rpn_head", "roi_head.bbox_roi_extractor", "roi_head.bbox_head"):
            module.register_forward_hook(watch(name))
    batch = model.data_preprocessor(batch_of(0), training=True)
    torch.manual_seed(1)
    loss = model.parse_losses(model(**batch, mode="loss"))[0]
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), types


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize("task, alike", [
    ("coco_retinanet_fpn", 0.9), ("coco_maskrcnn_fpn", 0.7)])  # RoIs are drawn, of proposals that differ
def test_losses_are_float32s_to_bfloat16s_eight_bits(task, alike, tmp_path):
    loss, grad, _ = losses_and_types(task, tmp_path, False)
    ours, our_grad, types = losses_and_types(task, tmp_path, True)
    assert ours.dtype == our_grad.dtype == torch.float32 and ours != loss
    torch.testing.assert_close(ours, loss, rtol=0.03, atol=0)
    assert torch.cosine_similarity(our_grad, grad, 0) > alike
    assert torch.bfloat16 in types.pop("backbone.layer1")
    # Boxes at 1,333 pixels would be off by four.
    assert types and set.union(*types.values()) == {torch.float32}


def words(tmp_path, *more):
    return ["--method", "random_init", "--scale", "mini", "--limit", "2", "--data-root", str(tmp_path / "data"),
            "--work-dir", str(tmp_path), "--results", str(tmp_path / "results"), "--no-report", *more]


def test_it_is_a_protocol_of_its_own_of_detectors_alone(tmp_path):
    own, frozen = plan.make(request_of(words(tmp_path, "--task", "coco_retinanet_fpn", "knn", "--amp"))).transfers
    [plain] = plan.make(request_of(words(tmp_path, "--task", "coco_retinanet_fpn"))).transfers
    assert own.protocol.config == plain.protocol.config | dict(amp="bfloat16")
    assert own.protocol.schedule == f"{plain.protocol.schedule}+bf16" and "amp" not in frozen.protocol.config
    with pytest.raises(UserError, match="--amp: knn trains no detector; leave it out"):
        plan.make(request_of(words(tmp_path, "--task", "knn", "--amp")))


def test_its_record_says_so(tmp_path):
    for task, precision in (("coco_retinanet_fpn", "bfloat16"), ("knn", "float32")):
        transfers = plan.make(request_of(words(tmp_path, "--task", "coco_retinanet_fpn", task, "--amp"))).transfers
        job = SimpleNamespace(protocol=transfers[-1].protocol, workers=0)
        assert _used(job, 1)["precision"] == precision or torch.cuda.is_available()


@pytest.mark.slow
def test_a_detector_trains_and_tests_in_it(drawn_scenes):
    assert run.main(words(drawn_scenes, "--task", "coco_retinanet_fpn", "--amp")) == 0
    [path] = drawn_scenes.glob("transfer/mini/*/*/result.json")
    row = json.loads(path.read_text())
    assert (row["cost"]["precision"], row["schedule"]) == ("bfloat16", "limit+bf16")


@pytest.fixture
def drawn_scenes(tmp_path):
    from benchmarks.data import synthetic

    synthetic.write_scenes(tmp_path / "data" / "mini" / "scenes", train=8, val=4)
    return tmp_path
