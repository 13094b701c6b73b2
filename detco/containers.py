"""Files that hold weights -> what they hold, tensors not read yet: safetensors, torch's two formats, plain pickles.

What a file is is told from its content, not from its name. Nothing in it executes, memory and time are bounded by its
size, and a reason is the true one. Torch's own loader is not used (`detco.unpickle` says why), so none of its versions
is asked for.
"""
import dataclasses
import functools
import io
import mmap
import re
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import safetensors
import torch

from detco.unpickle import MAGIC, OPERATIONS, STORAGES, FormatError, Lazy, Machine, Record, Storage

HEADER = 16_000_000  # bytes of a safetensors header; a ResNet's takes under 100 kB
ENTRIES = 100_000  # of a zip; a state dict with its optimiser has some hundreds
SAFETENSORS = dict(F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16, I64=torch.int64,
                   I32=torch.int32, I16=torch.int16, I8=torch.int8, U8=torch.uint8, BOOL=torch.bool)
# What is taken for a checkpoint at times, by its first bytes (at an offset).
OTHERS = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file it stands for: run git lfs pull"),
    (0, b"<", "a web page or XML, not a checkpoint: the download went wrong"),
    (0, b"\x89HDF", "HDF5, of Keras or another library: no ResNet of torch's is kept so"),
    (0, b"\x1f\x8b", "compressed (gzip): unpack it first"),
    (0, b"BZh", "compressed (bzip2): unpack it first"),
    (0, b"\xfd7zXZ", "compressed (xz): unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed (zstd): unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first"),
)


def read(path: Path) -> tuple[str, Any, str | None]:
    """What a file holds.

    Returns:
        its kind; what it holds: dicts, lists, `Record` and `Lazy` tensors; the "detco" entry of a safetensors header.
    Raises:
        FormatError: it cannot be read, or not safely.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FormatError("no such file" if isinstance(error, FileNotFoundError) else reason) from None
    if not stat.S_ISREG(mode):
        raise FormatError("a folder; give the file in it" if stat.S_ISDIR(mode) else "no regular file")
    size = path.stat().st_size
    if size < 8:
        raise FormatError("empty" if not size else f"only {size} bytes long")
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise FormatError(f"cannot be opened ({error.strerror})") from None
    for offset, begin, what in OTHERS:
        if data[offset:offset + len(begin)] == begin:
            raise FormatError(what)
    if data[8:9] == b"{" and not (data[0] == 0x80 and data[1] < 6 and data[2:8] != bytes(6)):
        return "safetensors", *_safetensors(path, data)
    if data[:4] == b"PK\x03\x04":
        return "torch", _torch_zip(path, data), None
    return *_pickled(data), None


def _safetensors(path: Path, data: mmap.mmap) -> tuple[dict[str, Lazy], str | None]:
    length = struct.unpack("<Q", data[:8])[0]
    if length > min(HEADER, len(data) - 8):
        raise FormatError(f"truncated: its header claims {length:,} bytes, the file has {len(data):,}"
                          if length > len(data) - 8 else f"a header of {length:,} bytes, more than a ResNet can need")
    try:
        file = safetensors.safe_open(path, "pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        tensors = {name: Lazy(tuple(found.get_shape()), SAFETENSORS.get(kind, f"a tensor of type {kind}"),
                              functools.partial(file.get_tensor, name), name)
                   for name, found in slices.items() for kind in [str(found.get_dtype())]}
        return tensors, (file.metadata() or {}).get("detco")
    except (safetensors.SafetensorError, OSError, ValueError, OverflowError) as error:
        reason = str(error)
        truncated = "IncompleteBuffer" in reason or "incomplete metadata" in reason.lower()
        raise FormatError(f"{'truncated' if truncated else 'a damaged safetensors file'} ({reason[:120]})") from None


def _torch_zip(path: Path, data: mmap.mmap) -> Any:
    """Torch's format since 1.6: a zip with a pickle and a file for each storage, not compressed."""
    if sum(1 for _, _ in zip(re.finditer(rb"PK\x01\x02", data), range(ENTRIES + 1), strict=False)) > ENTRIES:
        raise FormatError(f"a zip of more than {ENTRIES:,} entries")
    try:
        archive = zipfile.ZipFile(path)
        names = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, OverflowError, NotImplementedError, struct.error) as error:
        if data.rfind(b"PK\x05\x06") < 0:
            raise FormatError("truncated: the list of contents that ends a torch file (a zip) is missing") from None
        raise FormatError(f"a damaged torch file ({str(error)[:80]})") from None
    if len(names) != len(archive.filelist):
        raise FormatError("a damaged torch file (two entries of one name)")

    def content(name: str) -> bytes:
        info = names[name]
        if info.compress_type or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise FormatError("a compressed or encrypted zip, which torch does not write: unpack it first")
        if info.file_size > len(data):
            raise FormatError(f"truncated: '{name}' claims {info.file_size:,} bytes, the file has {len(data):,}")
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, OverflowError, NotImplementedError, RuntimeError,
                struct.error) as error:
            raise FormatError(f"damaged: '{name}' in it does not have its checksum or length ({str(error)[:80]})"
                              ) from None

    pickles = [name for name in names if re.fullmatch(r"[^/]*/data\.pkl", name)]
    if len(pickles) != 1:
        raise FormatError("a zip, but not one that torch wrote; is it a packed folder? unpack it, give the file in it")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names:
        raise FormatError("a TorchScript program: load it with torch.jit.load and save its state_dict()")
    if f"{root}byteorder" in names and content(f"{root}byteorder") != b"little":
        raise FormatError("written on a big-endian machine: save it again on a little-endian one")
    read = functools.lru_cache(maxsize=1)(content)  # several tensors of one storage come in a row

    def storage(kind: str, key: str, size: int) -> Storage | Record:
        dtype = STORAGES.get(kind.rpartition(".")[2])
        if dtype is None:
            return Record(f"type {kind}")
        if (name := f"{root}data/{key}") not in names:
            raise FormatError(f"a damaged torch file (storage {key} is not in it)")
        return Storage(dtype, key, size, functools.partial(read, name))

    return Machine(io.BytesIO(content(pickles[0])), [OPERATIONS], storage).load()


def _pickled(data: mmap.mmap) -> tuple[str, Any]:
    """A pickle, or torch's format from before 1.6, which begins with one."""
    left = [OPERATIONS]
    try:
        found = Machine(data, left, nested=_nested).load()
    except FormatError:
        if data[:1] == b"\x80":
            raise
        raise FormatError("cannot be read, of no known format: no torch file, no safetensors, no pickle (or a damaged "
                          "one of protocol 0 or 1)") from None
    return ("torch (before 1.6)", _legacy(data, left)) if _is_magic(found) else ("pickle", found)


def _is_magic(found: Any) -> bool:
    return type(found) is int and found == MAGIC


def _legacy(file: mmap.mmap | io.BytesIO, left: list[int]) -> Any:
    """The rest of a file in torch's format from before 1.6, after its magic number: pickles, then storages in a row."""
    known: dict[str, Storage] = {}
    places: dict[str, tuple[int, int]] = {}
    whole = file if isinstance(file, mmap.mmap) else file.getbuffer()

    def data(key: str) -> bytes:
        begin, end = places[key]
        return bytes(whole[begin:end])

    def storage(kind: str, key: str, size: int) -> Storage | Record:
        dtype = STORAGES.get(kind.rpartition(".")[2])
        if dtype is None:
            return Record(f"type {kind}")
        known[key] = Storage(dtype, key, size, functools.partial(data, key))
        return known[key]

    version, system = Machine(file, left).load(), Machine(file, left).load()
    if version != 1001:
        raise FormatError("a torch file of an unknown version")
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise FormatError("written on a big-endian machine: save it again on a little-endian one")
    found, keys = Machine(file, left, storage, _nested).load(), Machine(file, left).load()
    begin = file.tell()
    for key in keys if isinstance(keys, list) else ():
        if not (isinstance(key, str) and key in known) or key in places:
            raise FormatError("a damaged torch file (its list of storages)")
        size, dtype = known[key].size, known[key].dtype
        places[key] = begin + 8, begin + 8 + size * dtype.itemsize
        if places[key][1] > len(whole):
            raise FormatError(f"truncated: storage {key} of {size:,} numbers ends behind the file's end")
        if struct.unpack("<q", whole[begin:begin + 8])[0] != size:
            raise FormatError(f"a damaged torch file (the length of storage {key})")
        begin = places[key][1]
    if len(places) < len(known):
        raise FormatError("a damaged torch file (a storage without data)")
    return found


def _nested(content: bytes, left: list[int]) -> Storage | Record:
    """The storage of a tensor that was pickled without torch.save: a torch file within the pickle."""
    left[0] -= 1000  # far more work than an operation
    file = io.BytesIO(content)
    if not _is_magic(Machine(file, left).load()) or not isinstance(found := _legacy(file, left), Storage):
        return Record("bytes of an unknown form")
    # Keys are addresses, which storages pickled one after the other share.
    return dataclasses.replace(found, key=f"{found.key} at {id(content)}")
