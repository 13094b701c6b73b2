"""Puts mmcv's operators in place before any test imports mmdet."""
import benchmarks.detection  # noqa: F401
