"""Sealed files, and folders in which one process works."""
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from detco import files
from detco.errors import UserError


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "a.bin"
    with files.replacing(path, sealed=True) as temporary:
        temporary.write_bytes(b"some bytes")
    return path


def test_a_sealed_file_is_what_was_written_and_coreutils_agree(sealed):
    assert files.flaw_of(sealed) == ""
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "a.bin.sha256"], cwd=sealed.parent, check=True)
    assert sorted(p.name for p in sealed.parent.iterdir()) == ["a.bin", "a.bin.sha256"]


@pytest.mark.parametrize("harm, words", [
    (lambda p: p.write_bytes(b"some byteS"), "its bytes do not fit a.bin.sha256"),
    (lambda p: p.write_bytes(b"some"), "its bytes do not fit a.bin.sha256"),
    (lambda p: p.with_name("a.bin.sha256").write_bytes(b"\xff"), "its bytes do not fit a.bin.sha256"),
    (lambda p: p.with_name("a.bin.sha256").unlink(), "no a.bin.sha256 beside it (`sha256sum` makes one"),
    (lambda p: p.unlink(), "missing"),
    (lambda p: (p.unlink(), p.with_name("a.bin.sha256").unlink()), "missing")])
def test_what_changed_since_is_said(harm, words, sealed):
    harm(sealed)
    assert words in files.flaw_of(sealed)


def test_a_stop_while_a_file_is_written_leaves_the_one_before_it_sealed(sealed):
    with pytest.raises(KeyboardInterrupt), files.replacing(sealed, sealed=True) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert files.flaw_of(sealed) == "" and sealed.read_bytes() == b"some bytes"


def test_one_at_a_time_works_in_a_folder_and_others_are_told_and_wait(tmp_path):
    inside, most, said = [], [], []

    def work(number):
        with files.alone(tmp_path / "work", note=said.append):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.05)
            inside.remove(number)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert most == [1] * 4 and f"{tmp_path / 'work'}: another process works there; waiting for it to end" in said


HOLD = """
import sys, time
from pathlib import Path
from detco.files import alone, replacing
with alone(Path(sys.argv[1])), replacing(Path(sys.argv[1]) / "a.bin") as temporary:
    temporary.write_bytes(b"half")
    print("there", flush=True)
    time.sleep(600)
"""


def test_patience_ends_in_a_refusal_and_a_killed_process_leaves_neither_lock_nor_remains(tmp_path):
    folder = tmp_path / "work"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "there\n"
    left, = folder.glob(".*.tmp")
    with pytest.raises(UserError, match="another process works there; run this again when it has ended"), \
            files.alone(folder, patience=1):
        pass
    assert left.exists()  # of a process that lives
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with files.alone(folder, patience=0):
        assert not left.exists()
