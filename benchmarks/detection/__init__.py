"""mmdetection: detectors, their parts, their scores. Importing any of it puts mmcv's operators in place first."""
from benchmarks.detection import mmcv_ops

mmcv_ops.install()  # mmdet looks up mmcv's compiled operators when it is imported
