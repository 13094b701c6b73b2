"""What a run prints of its rows beside those filed."""
import json
from pathlib import Path

from benchmarks import execute
from benchmarks.cli import request_of
from benchmarks.plan import make
from leaderboard.record import read_all, write, write_protocol

BOARD = Path(__file__).resolve().parents[2] / "leaderboard"


def test_a_row_of_a_version_that_nobody_filed_yet_is_shown_by_itself(tmp_path, capsys):
    filed = read_all(BOARD / "results")[0]
    protocol = json.loads((BOARD / "protocols" / f"{filed['protocol_fingerprint'][:16]}.json").read_text())["config"]
    results = tmp_path / "board" / "results"
    write_protocol(results, protocol)
    write(results, filed)
    plan = make(request_of(["--method", "detco", "--scale", "mini", "--results", str(results), "--work-dir",
                            str(tmp_path / "work")]))
    execute.report(plan, [filed | {"method": "newer", "task_version": filed["task_version"] + 1}])
    shown = capsys.readouterr().out
    assert "-> newer" in shown and f"-> {filed['method']}" not in shown
    execute.report(plan, [filed])
    assert f"-> {filed['method']}" in capsys.readouterr().out
