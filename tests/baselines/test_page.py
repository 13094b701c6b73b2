"""docs/add-a-method.md shows the code that runs."""
import re
import shlex
from pathlib import Path

from benchmarks import run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "add-a-method.md").read_text()


def test_its_code_is_the_codes_own():
    shown = re.findall(r"```python\n(.*?)\n```", PAGE, re.S)
    code = "\n".join((ROOT / name).read_text() for name in ("baselines/simsiam.py", "configs/pretrain/simsiam.py"))
    assert len(shown) == 5 and all(block in code for block in shown)


def test_its_command_runs(tmp_path):
    [line] = re.findall(r"^python benchmarks/run.py (--method simsiam --limit 2)$", PAGE, re.M)
    folders = ["--data-root", tmp_path / "data", "--work-dir", tmp_path, "--results", tmp_path / "results"]
    assert run.main([*shlex.split(line), *map(str, folders), "--scale", "mini"]) == 0
    assert list(tmp_path.glob("transfer/mini/coco_maskrcnn_c4/simsiam-p0-s0-*/result.json"))
