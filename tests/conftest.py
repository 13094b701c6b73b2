"""Test processes that run side by side share the cores out among them, and so do the commands that they start."""
import os

if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))) > 1:  # before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
