"""Detectors, and whatever else mmdetection's Runner trains: one row's training, evaluation and scores."""
from pathlib import Path

from mmengine.hooks import ParamSchedulerHook
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import ValLoop

from benchmarks.data.coco import CocoData
from benchmarks.detection import (
    cityscapes_metric,
    precise_bn,  # noqa: F401 - register themselves
    stream,  # noqa: F401
)
from benchmarks.detection.evaluate import hash_of_detections, score
from benchmarks.detection.precision import in_bfloat16
from benchmarks.job import Job
from benchmarks.protocol import Protocol
from detco import checkpoint as checkpoints
from detco.console import log
from detco.errors import UserError
from detco.runner import Runner, quiet


def measure(job: Job) -> dict:
    """Train and evaluate one detector; the record's fields that say what came out (`benchmarks.transfer.transfer`).

    Raises CheckpointError where the checkpoint does not fit, DivergedError at a loss that is not finite.
    """
    from mmengine import dist

    config = runner_config(job.protocol, job.data, job.seed, job.workers, dist.get_world_size(), job.limit,
                           job.max_per_process)
    config["model"] = _styled(config["model"], job.checkpoint.metadata)
    backbone = (job.checkpoint, job.protocol.config["load"], job.checkpoint_path) if job.load else None
    runner = run(config, backbone, job.work_dir, f"{job.name} seed {job.seed}", job.resume,
                 "amp" in job.protocol.config)
    hub = runner.message_hub
    return _scored(job) | dict(
        load_report=runner.load_report,
        train_losses={key: float(series.current()) for key, series in hub.log_scalars.items()
                      if key.startswith("train/loss")},
        cost=dict(train_seconds=round(hub.get_info("train_seconds", 0.0), 1), earlier_seconds=runner.clock.before,
                  accumulation=config["optim_wrapper"]["accumulative_counts"]))


def _styled(model: dict, metadata: dict) -> dict:
    """The model's config in a checkpoint's style: its own pixels, and the stride in the 1x1, or unchanged."""
    style = checkpoints.style_of(metadata)
    if style["stride"] == "pytorch":
        return model
    pixels = dict(mean=[255 * value for value in style["mean"]], std=[255 * value for value in style["std"]],
                  bgr_to_rgb=style["channel_order"] == "RGB")  # images are read as BGR
    return _strided(model, style["stride"]) | dict(data_preprocessor=model["data_preprocessor"] | pixels)


def _strided(node, stride: str):
    """The config with every `style` of a ResNet's stages replaced."""
    if isinstance(node, dict):
        return {k: stride if k == "style" else _strided(v, stride) for k, v in node.items()}
    return type(node)(_strided(v, stride) for v in node) if isinstance(node, (list, tuple)) else node


@LOOPS.register_module()
class WitnessedValLoop(ValLoop):
    """mmengine's evaluation, which knows whether it has run: a run stopped before it must catch up."""

    evaluated = False

    def run(self) -> dict:
        metrics = super().run()
        self.evaluated = True
        return metrics


@HOOKS.register_module()
class IterationSchedulerHook(ParamSchedulerHook):
    """mmengine's, counting an iteration when its `parts` are through: parts see the rates that ranks see."""

    def __init__(self, parts: int):
        self.parts = parts

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        if self.every_n_train_iters(runner, self.parts):
            super().after_train_iter(runner, *args, **kwargs)


class TransferRunner(Runner):
    """Loads the backbone after mmengine has initialised the detector, and before a resume overrides both."""

    def __init__(self, *args, backbone=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.backbone, self.load_report = backbone, {}

    def load_or_resume(self):
        if self.backbone and not self._has_loaded:
            self.load_report = checkpoints.load_into(getattr(self.model, "module", self.model), *self.backbone)
        super().load_or_resume()


def runner_config(protocol: Protocol, data: CocoData, seed: int, workers: int, world_size: int,
                  limit: int | None = None, max_per_process: int | None = None) -> dict:
    """Keyword arguments of mmengine's Runner for a protocol.

    The total batch is kept on any number of processes: a process that shall not take its share at once takes it in
    equal parts, forward and backward one by one, before the optimiser steps; the Runner's iterations are then parts.
    Eight parts of two images give what eight ranks with two images give (losses averaged over parts, normalisers by
    part, rates, precise BN), but for batch norm, which ranks synchronise and parts cannot, Sparse R-CNN's number of
    boxes, which ranks average, and all that is drawn at random.
    """
    config = protocol.config
    schedule, warmup, total = config["schedule"], config.get("warmup"), config["data"]["total_batch"]
    if total % world_size:
        raise UserError(f"{protocol.task}: a total batch of {total} does not divide among {world_size} processes")
    per_process = total // world_size
    parts = next(n for n in range(1, per_process + 1)
                 if per_process % n == 0 and per_process // n <= (max_per_process or per_process))
    iterations = schedule["iterations"]
    rates = [dict(type="LinearLR", start_factor=warmup["start_factor"], by_epoch=False, begin=0,
                  end=warmup["iterations"])] if warmup else []
    dataset = dict(type=config["data"]["dataset"], metainfo=dict(classes=tuple(data.classes)), backend_args=None)
    train = dict(ann_file=str(data.train_annotations), data_prefix=dict(img=f"{data.train_images}/"),
                 filter_cfg=config["data"]["filter_cfg"], pipeline=config["train_pipeline"])
    val = dict(ann_file=str(data.val_annotations), data_prefix=dict(img=f"{data.val_images}/"), test_mode=True,
               indices=limit, pipeline=config["test_pipeline"])
    loader = dict(num_workers=workers, persistent_workers=workers > 0)
    return dict(
        model=_model(config["model"], schedule.get("frozen", False), parts, world_size > 1),
        train_dataloader=dict(batch_size=per_process // parts, **loader, dataset=dataset | train,
                              sampler=dict(type="InfiniteSampler"),  # SeededLoop draws anew from one
                              batch_sampler=config["data"]["batch_sampler"]),
        val_dataloader=dict(batch_size=1, **loader, dataset=dataset | val, drop_last=False,
                            sampler=dict(type="DefaultSampler", shuffle=False)),
        val_evaluator=config["evaluator"] | dict(format_only=True, ann_file=str(data.val_annotations)),
        train_cfg=dict(type="SeededLoop", max_iters=iterations * parts, seed=seed),
        val_cfg=dict(type="WitnessedValLoop"),
        optim_wrapper=dict(type="OptimWrapper", accumulative_counts=parts) | config["optimizer"],
        param_scheduler=[*rates, dict(type="MultiStepLR", by_epoch=False, gamma=config["lr_decay"],
                                      milestones=schedule["milestones"])],
        default_hooks=dict(
            param_scheduler=dict(type="IterationSchedulerHook", parts=parts), sampler_seed=None,  # SeededLoop seeds
            logger=dict(type="LoggerHook", interval=min(20, iterations * parts)),
            # Whole iterations: the gradients of parts are not in a state.
            checkpoint=dict(type="CheckpointHook", by_epoch=False, max_keep_ckpts=2,
                            interval=parts * max(1, min(iterations // 4, 5000 // parts)))),
        custom_hooks=[dict(type="PreciseBNHook", parts=parts) | config["precise_bn"]] if "precise_bn" in config else [],
        log_processor=dict(by_epoch=False), randomness=dict(seed=seed), default_scope="mmdet")


def _model(model: dict, frozen: bool, parts: int, synchronised: bool) -> dict:
    """The model's config for a run: with the backbone's norms and first stage frozen, told its parts, synchronised."""
    if frozen:
        frozen_norm = model["backbone"]["norm_cfg"] | dict(requires_grad=False)
        model = model | dict(backbone=model["backbone"] | dict(frozen_stages=1, norm_eval=True, norm_cfg=frozen_norm))
    if "parts" in model.get("bbox_head", {}):
        model = model | dict(bbox_head=model["bbox_head"] | dict(parts=parts))
    return _synchronised(model) if synchronised else model


def _synchronised(node):
    """The model's config with every BN turned into one that synchronises over ranks."""
    from mmengine.device import get_device

    kind = "SyncBN" if get_device() == "cuda" else "DetCoSyncBN"
    if isinstance(node, dict):
        return {k: kind if k == "type" and v == "BN" else _synchronised(v) for k, v in node.items()}
    return type(node)(map(_synchronised, node)) if isinstance(node, (list, tuple)) else node


def run(config: dict, backbone: tuple | None, work_dir: Path, label: str, resume: bool, amp: bool) -> TransferRunner:
    """Train, evaluate, and leave `detections.<kind>` in the work folder; the runner that did."""
    from mmengine.config import ConfigDict

    from benchmarks.detection import (  # noqa: F401 - register themselves; import mmdet
        anchors,
        instances,
        keypoints,
        loading,
        modules,
        semantic,
    )

    with quiet(work_dir / "run.log"):
        config["val_evaluator"]["outfile_prefix"] = str(work_dir / "detections")
        runner = TransferRunner(
            **ConfigDict(config), work_dir=str(work_dir), resume=resume, label=label,
            visualizer=dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")]),
            experiment_name=f"transfer-{work_dir.name}", backbone=backbone)
        if amp:
            in_bfloat16(getattr(runner.model, "module", runner.model))
        runner.train()
        if runner.iter >= runner.max_iters and not runner.val_loop.evaluated:
            runner.val()  # stopped between training and evaluation
    return runner


def _scored(job: Job) -> dict:
    """Metrics, per-class scores and the hash of the detections in the work folder."""
    metrics, per_class, kinds = {}, {}, job.protocol.config["task"]["metrics"]
    for kind in kinds:
        if kind == "cityscapes" and not cityscapes_metric.is_installed():
            log('no score by Cityscapes\' own rules: pip install -e ".[cityscapes]" brings them')
            continue
        scores, per_class[kind] = score(kind, job.data, job.work_dir, job.limit)
        metrics |= scores
    return dict(metrics=metrics, per_class=per_class, detections=hash_of_detections(kinds, job.work_dir))
