"""Damaged files of every format, some 1,600: each is refused with one line, or loads as the weights that were saved.

Each file is read in a process of its own that may take 1 GB and 20 s of a processor. What is damaged is the structure
around the numbers: in formats without checksums another number is another checkpoint, which nothing can tell.
"""
import collections
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

MEMORY, SECONDS = 1 << 30, 20
EACH, ROUNDS = 92, 20  # damaged files of a format, and rounds of crafted ones


def writers():
    """Name -> what writes a state dict to a path; names of mutable files are those of formats."""
    import torch
    from safetensors.torch import save_file

    from detco import checkpoint

    def arrays(state):
        return {k: v.numpy() for k, v in state.items()}

    def checkpoint_of(state):
        return {"epoch": 3, "state_dict": {f"module.encoder_q.{k}": v for k, v in state.items()}, "arch": "resnet18",
                "args": collections.Counter(a=1)}

    found = {
        "torch": lambda s, p: torch.save(s, p), "torch, nested": lambda s, p: torch.save(checkpoint_of(s), p),
        "torch before 1.6": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
        "torch before 1.6, nested": lambda s, p: torch.save(checkpoint_of(s), p, _use_new_zipfile_serialization=False),
        "tensors pickled": lambda s, p: p.write_bytes(pickle.dumps(s)),
        "safetensors": lambda s, p: save_file(s, p),
        "ours": lambda s, p: checkpoint.save(p, s, dict(arch="resnet18")),
        "detectron2": lambda s, p: checkpoint.export(
            checkpoint.Checkpoint(s, checkpoint.FOREIGN | {"arch": "resnet18"}), p, "detectron2")}
    for protocol in range(6):
        found[f"pickle {protocol}"] = lambda s, p, protocol=protocol: p.write_bytes(pickle.dumps(arrays(s), protocol))
    return found


def structure_of(path, name, state):
    """The bytes of a file that are not tensors': (begin, end) pairs. In a zip every byte has a checksum."""
    content = path.read_bytes()
    if name.startswith("torch") and "before" not in name:
        return [(0, len(content))]
    places = []
    for value in state.values():
        raw = value.numpy().tobytes()
        text = raw.decode("latin1")  # as which protocols below 3 write bytes
        for character in "\\\0\n\r\x1a" if name == "pickle 0" else "":
            text = text.replace(character, f"\\u{ord(character):04x}")
        for form in (raw, text.encode("latin1"), text.encode()):
            if value.dim() and (at := content.find(form)) >= 0:
                places.append((at, at + len(form)))
                break
    places, begin, gaps = sorted(places), 0, []
    for at, end in places:
        if at > begin:
            gaps.append((begin, at))
        begin = max(begin, end)
    assert len(places) == sum(value.dim() > 0 for value in state.values()), name
    return gaps + [(begin, len(content))] * (begin < len(content))


def mutate(content, gaps, random):
    """A damaged copy: cut, bytes changed, put in, taken out or moved, or a number made large."""
    kind = random.choice(("cut", "flip", "flip", "flip", "bytes", "insert", "delete", "copy", "large"))
    if kind == "cut":
        return content[:random.randrange(len(content))]
    begin, end = random.choice(gaps)
    at = random.randrange(begin, end)
    if kind == "flip":
        changed = bytes([content[at] ^ 1 << random.randrange(8)])
    elif kind == "bytes":
        changed = random.randbytes(min(random.randrange(1, 9), end - at))
    elif kind == "insert":
        return content[:at] + random.randbytes(random.randrange(1, 9)) + content[at:]
    elif kind == "delete":
        return content[:at] + content[min(at + random.randrange(1, 9), end):]
    elif kind == "copy":
        other = random.randrange(begin, end)
        changed = content[other:min(other + random.randrange(1, 40), end)][:end - at]
    else:
        changed = random.choice((b"\xff" * 4, b"\xff" * 8, b"\x00\x00\x00\x40", b"\x7f" * 8))[:end - at]
    return content[:at] + changed + content[at + len(changed):]


def crafted(random):
    """Hostile files that no mutation finds."""
    depth, claim = random.choice((1000, 100_000, 900_000)), random.randrange(2**20, 2**62)
    size = claim.to_bytes(8, "little")
    yield b"\x80\x02Nr" + random.randbytes(4) + b"."
    yield b"\x80\x04\x8e" + size + b"abc."
    yield b"\x80\x05\x96" + size + b"abc."
    yield b"\x80\x02T" + size[:3] + b"\x7fabc."
    yield b"\x80\x04\x95" + size + b"N."
    yield b"\x80\x02]" + random.choice((b"\x85", b"\x85q\x00", b"a]")) * depth + b"."
    yield b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
    yield b"\x80\x02" + b"}X\x01\x00\x00\x00a" * (depth // 3) + b"N" + b"s" * (depth // 3) + b"."
    yield b"\x80\x04" + random.choice((b"}\x94", b"]\x94", b"ca\nb\n)R\x94")) * depth + b"."
    yield b"\x80\x02})" + b"2\x86" * random.randrange(30, 90) + b"Ns."
    yield b"\x80\x02cbuiltins\n" + random.choice((b"exec", b"eval", b"__import__")) + b"\n(X\x02\x00\x00\x0010tR."
    yield b"".join(random.choice((b"(", b"N", b"]", b"}", b")", b"t", b"R", b"b", b"s", b"u", b"a", b"e", b"0", b"2",
                                  b"\x81", b"\x85", b"q\x00", b"h\x00", b"cnumpy\ndtype\n", b"K\x03", b"Vf4\n"))
                   for _ in range(300)) + b"."
    header = json.dumps({"conv1.weight": {"dtype": random.choice(("F32", "F64", "I8", "X")), "shape": [64, 3, 7, 7],
                                          "data_offsets": [0, random.choice((37632, claim))]}}).encode()
    yield len(header).to_bytes(8, "little") + header + bytes(random.choice((0, 37632)))
    yield size + b"{" + random.randbytes(100)
    yield (90_000).to_bytes(8, "little") + b'{"__metadata__":{"detco":"' + b"[" * 90_000
    yield random.randbytes(random.randrange(1, 5000))
    yield b"PK\x03\x04" + random.randbytes(500) + b"PK\x05\x06" + random.randbytes(18)


def zip_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(200_000_000))


def child(path, state):
    """In a process of its own: inspect a file, and load it if that went well. Exit status: 2 refused, 0 equal, 3 loaded
    but not what was saved."""
    import torch

    from detco import checkpoint

    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()  # data and stack
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    with open(f"{path}.err", "w") as err:
        sys.stderr = sys.stdout = err
        if (status := checkpoint.main(["convert", str(path), f"{path}.out", "--to", "safetensors"])) != 0:
            return status
    loaded = checkpoint.load(f"{path}.out").state
    same = (torch.equal(loaded[key], value) for key, value in state.items() if value.dim())  # no network sees counters
    return 0 if all(same) else 3


def fuzz(folder):
    """Try the files, print the outcomes as JSON."""
    import torch
    import torchvision

    torch.set_num_threads(1)  # a process that has started threads must not fork
    torch.manual_seed(0)
    net = torchvision.models.resnet18()
    state = {k: torch.rand_like(v).half() if v.dim() else v for k, v in net.state_dict().items() if k[:3] != "fc."}
    draw, outcomes, peak, slowest, wrong = random.Random(0), collections.Counter(), 0, 0.0, []
    formats = writers()
    for name, write in formats.items():
        write(state, folder / name)
    zip_bomb(folder / "bomb")

    def contents():
        for name in formats:
            whole, gaps = (folder / name).read_bytes(), structure_of(folder / name, name, state)
            yield name, whole, True
            yield from ((name, mutate(whole, gaps, draw), False) for _ in range(EACH))
        for _ in range(ROUNDS):
            yield from (("crafted", content, False) for content in crafted(draw))
        yield "crafted", (folder / "bomb").read_bytes(), False

    path = folder / "file.pth"
    for number, (name, content, whole) in enumerate(contents()):
        path.write_bytes(content)
        if not (pid := os.fork()):
            status = 4
            try:
                status = child(path, state)
            finally:
                os._exit(status)
        _, status, usage = os.wait4(pid, 0)
        code, seconds = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        line = Path(f"{path}.err").read_text()
        peak, slowest = max(peak, usage.ru_maxrss), max(slowest, seconds)
        told = line.startswith("error: ") and line.count("\n") == 1 and line[:-1].isprintable()
        good = code == 0 or (code == 2 and told)
        outcomes[f"{name}: {'equal' if code == 0 else 'refused' if good else 'wrong'}"] += 1
        if not good or (whole and code):
            wrong.append([name, number, code, line[-300:]])
            (folder / f"wrong-{number}").write_bytes(content)
    print(json.dumps(dict(files=number + 1, outcomes=outcomes, peak_mb=peak >> 10, slowest=slowest, wrong=wrong)))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_damaged_files_of_every_format(tmp_path):
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found, indent=1))
    assert found["wrong"] == [] and found["files"] >= 1500
    assert {name.split(":")[0] for name in found["outcomes"]} == {*writers(), "crafted"}
    assert found["peak_mb"] < MEMORY >> 20


if __name__ == "__main__":
    fuzz(Path(sys.argv[1]))
