"""Pickles read as data: containers, strings and numbers are built, tensors and arrays are noted where they lie, and any
other class or function that a pickle names becomes a plain record of that name. Nothing it names is imported or called.

Torch's tensors-only loader refuses a file for any object beside its tensors (a Namespace, a history buffer), and C's
unpickler allocates whatever a few bytes claim, so neither reads strangers' files. Here time and memory are bounded by
the file's size and by `OPERATIONS`.
"""
import functools
import math
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detco.errors import UserError

OPERATIONS = 1_000_000  # of a pickle; a ResNet's state dict with its optimiser takes under 50,000
MAGIC = 0x1950A86A20F9469CFC6C  # begins torch's files from before version 1.6
ARRAYS = {"f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "i1": torch.int8, "i2": torch.int16,
          "i4": torch.int32, "i8": torch.int64, "u1": torch.uint8, "b1": torch.bool}
STORAGES = {f"{name}Storage": dtype for name, dtype in dict(
    Half=torch.float16, BFloat16=torch.bfloat16, Float=torch.float32, Double=torch.float64, Char=torch.int8,
    Short=torch.int16, Int=torch.int32, Long=torch.int64, Byte=torch.uint8, Bool=torch.bool,
    ComplexFloat=torch.complex64, ComplexDouble=torch.complex128, Untyped=torch.uint8).items()}
NOT_DENSE = {"_rebuild_sparse_tensor": "a sparse tensor", "_rebuild_sparse_csr_tensor": "a sparse tensor",
             "_rebuild_qtensor": "a quantised tensor", "_rebuild_nested_tensor": "a nested tensor",
             "_rebuild_meta_tensor_no_storage": "a meta tensor, without values",
             "_rebuild_wrapper_subclass": "a tensor of a class of its own"}


class FormatError(UserError):
    """A file that cannot be read, or not safely: the reason, without the file's name."""


class Name(str):
    """A class or function that a pickle names, "module.name"."""


class Record(dict):
    """An object that is not built: the class or function named, its arguments, items with string keys, and state."""

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: Any = ()):
        super().__init__()
        self.name, self.arguments, self.state = name, arguments, None


class Encoded:
    """Bytes that protocols below 3 write as text; encoded once and when read, so that a reference costs nothing."""

    def __init__(self, text: str):
        self.text = text

    @functools.cached_property
    def data(self) -> bytes:
        return _latin1(self.text)


class Lazy:
    """A tensor in a file, not read yet.

    Attributes:
        dtype: torch's, or a string that says what there is instead of a dense tensor.
        read: gives the tensor. Raises FormatError where the file lacks its bytes.
        place: equal for two tensors over the same bytes.
    """

    __slots__ = ("dtype", "place", "read", "shape")

    def __init__(self, shape: tuple[int, ...] = (), dtype: torch.dtype | str = "an unfinished array",
                 read: Callable[[], Tensor] | None = None, place: Any = None):
        self.shape, self.dtype, self.read, self.place = shape, dtype, read, place

    def value(self) -> Tensor:
        """The tensor, of a file that has been found to hold it."""
        if self.read is None:
            raise FormatError(f"{self.dtype}, not a dense tensor")
        return self.read()


@dataclass(frozen=True)
class Storage:
    """`size` numbers in a row, in a torch file. `data` gives bytes, of which they are those after `begin` numbers."""

    dtype: torch.dtype
    key: str
    size: int
    data: Callable[[], bytes]
    begin: int = 0


class _DType:
    """numpy's type of an array's numbers: a name of `ARRAYS`, or another that nothing is made of."""

    __slots__ = ("name", "order")

    def __init__(self, name: str):
        self.name, self.order = name, "<"


class _Metered(dict):
    """The machine's operations by code; each look-up is counted."""

    def __init__(self, table: dict, left: list[int]):
        super().__init__(table)
        self.left = left

    def __getitem__(self, code: int):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise FormatError(f"its pickle takes more than {OPERATIONS:,} operations; save the state dict alone")
        return super().__getitem__(code)

    def __missing__(self, code: int):
        raise FormatError(f"a damaged pickle (0x{code:02x} is no operation)")


class _Whole:
    """A file that gives what is asked for or raises EOFError, where files give less."""

    def __init__(self, file):
        self.file = file

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def readline(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        return line


class Machine(pickle._Unpickler):
    """The standard library's unpickler (the one in Python) with every operation replaced that calls or sets anything.

    Args:
        file: an mmap or BytesIO, whose `read` allocates no more than there is.
        left: one number, the operations left; machines that read parts of one file share it.
        storage: (type's name, key, size) -> Storage, for torch's files.
        nested: reads a storage that was pickled with a tensor: bytes, left -> Storage.
    """

    dispatch = dict(pickle._Unpickler.dispatch)
    # What the base class has, which typeshed does not know.
    append: Callable[[Any], None]
    memo: dict[int, Any]
    pop_mark: Callable[[], list]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    stack: list

    def __init__(self, file, left: list[int], storage: Callable | None = None, nested: Callable | None = None):
        super().__init__(_Whole(file), encoding="latin1")  # Python 2 wrote arrays' bytes as str
        vars(self)["dispatch"] = _Metered(type(self).dispatch, left)
        self.left, self.storage, self.nested = left, storage, nested

    def load(self) -> Any:
        """The next pickle's object. Raises FormatError, with the true reason, for whatever is wrong with it."""
        try:
            return super().load()
        except EOFError:
            raise FormatError("truncated: it ends within a pickle") from None
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, AssertionError, OverflowError, MemoryError,
                RecursionError, struct.error, pickle.UnpicklingError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"a damaged pickle ({type(error).__name__}: {str(error)[:80]})") from None

    def find_class(self, module: str, name: str) -> Name:
        return Name(f"{module}.{name}")

    def get_extension(self, code: int) -> None:
        self.append(Name(f"extension {code}"))

    def persistent_load(self, pid: Any) -> Any:
        if self.storage is None or not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage"):
            return Record("a persistent object")
        _, kind, key, _, size, *view = pid
        if not (isinstance(key, str) and _whole(size)):
            raise FormatError("a damaged pickle (a storage without key or size)")
        found = self.storage(str(kind), key, size)
        if isinstance(found, Storage) and view and view[0] is not None:  # torch before 0.4 named parts of a storage
            if not (isinstance(view[0], tuple) and len(view[0]) == 3 and all(map(_whole, view[0][1:]))):
                raise FormatError("a damaged pickle (a storage's view)")
            return Storage(found.dtype, key, view[0][2], found.data, view[0][1])
        return found

    def called(self, name: Any, arguments: Any) -> Any:
        """What stands for the result of a call that a pickle asks for."""
        if not isinstance(name, Name):
            return Record("a call of a thing without name", arguments)
        function = name.rpartition(".")[2]
        if not isinstance(arguments, tuple):
            raise FormatError("a damaged pickle (arguments that are no tuple)")
        if name == "_codecs.encode" and arguments and isinstance(arguments[0], str):
            return Encoded(arguments[0])
        if name.startswith("torch."):
            return self._torch(name, function, arguments)
        if name.startswith("numpy."):
            return _numpy(name, function, arguments)
        made = Record(name, arguments)
        if function == "OrderedDict" and arguments and isinstance(arguments[0], list):  # Python 2: a list of pairs
            made.update((pair[0], pair[1]) for pair in arguments[0]
                        if isinstance(pair, list | tuple) and len(pair) == 2 and type(pair[0]) is str)
        return made

    def _torch(self, name: str, function: str, arguments: tuple) -> Any:
        if function in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            dtype = None
            if function == "_rebuild_tensor_v3":
                dtype = getattr(torch, str(arguments[6]).removeprefix("torch."), None)
            storage, offset, shape, strides = arguments[:4]
            return _tensor(storage, offset, shape, strides, dtype if isinstance(dtype, torch.dtype) else None)
        if function in ("_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_device_tensor_from_numpy"):
            return arguments[0]
        if function == "_rebuild_from_type_v2":
            return self.called(arguments[0], arguments[2])
        if function == "_load_from_bytes" and self.nested and isinstance(arguments[0], bytes | Encoded):
            return self.nested(bytes_of(arguments[0]), self.left)
        if function in NOT_DENSE:
            return Lazy((), NOT_DENSE[function])
        if name == "torch.Size":
            return tuple(arguments[0]) if isinstance(arguments[0], list | tuple) else ()
        return Record(name, arguments)

    # The operations. A machine's `stack` and `pop_mark` are the base class's.

    def _instantiate(self, name, arguments):  # of INST and OBJ
        self.append(self.called(name, tuple(arguments)))

    def load_reduce(self):
        arguments = self.stack.pop()
        self.stack[-1] = self.called(self.stack[-1], arguments)

    def load_newobj_ex(self):
        self.stack.pop()
        self.load_reduce()

    def load_build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif isinstance(target, _DType):
            if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
                target.order = state[1]
        elif isinstance(target, Lazy) and target.read is None and isinstance(state, tuple) and len(state) == 5:
            _fill(target, *state[1:])

    def load_append(self):
        value = self.stack.pop()
        self._extend([value])

    def load_appends(self):
        self._extend(self.pop_mark())

    def _extend(self, values: list) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)
        elif not isinstance(self.stack[-1], Record):  # a deque's items, say, which nobody asks for
            raise FormatError("a damaged pickle (items appended to what is no list)")

    def load_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def load_setitems(self):
        self._update(self.pop_mark())

    def _update(self, items: list) -> None:
        if not isinstance(self.stack[-1], dict):
            raise FormatError("a damaged pickle (items set on what is no dict)")
        # Other keys are of no use here, and hashing a crafted one can take for ever.
        self.stack[-1].update((k, v) for k, v in zip(items[::2], items[1::2], strict=True) if type(k) is str)

    def load_dict(self):
        items = self.pop_mark()
        self.append({})
        self._update(items)

    def load_empty_set(self):
        self.append([])

    def load_frozenset(self):
        items = self.pop_mark()  # which changes what `append` appends to
        self.append(items)

    def load_put(self):
        self.memo[self._index(self.readline())] = self.stack[-1]

    def load_get(self):
        self.append(self.memo[self._index(self.readline())])

    def _index(self, line: bytes) -> int:
        if len(line) > 11:  # crafted large numbers collide in a dict
            raise FormatError("a damaged pickle (a number of its memo)")
        return int(line)

    def load_bytearray8(self):
        size = struct.unpack("<Q", self.read(8))[0]
        self.append(self.read(size))

    def load_readonly_buffer(self):
        pass

    def load_next_buffer(self):
        raise FormatError("a pickle whose arrays lie outside it; save it again without out-of-band buffers")


for _code, _method in dict(
        REDUCE="reduce", NEWOBJ="reduce", NEWOBJ_EX="newobj_ex", BUILD="build", APPEND="append", APPENDS="appends",
        ADDITEMS="appends", SETITEM="setitem", SETITEMS="setitems", DICT="dict", EMPTY_SET="empty_set",
        FROZENSET="frozenset", PUT="put", GET="get", BYTEARRAY8="bytearray8", READONLY_BUFFER="readonly_buffer",
        NEXT_BUFFER="next_buffer").items():
    Machine.dispatch[getattr(pickle, _code)[0]] = getattr(Machine, f"load_{_method}")


def bytes_of(data: bytes | Encoded | str) -> bytes:
    """The bytes that a pickle holds, in whichever way its protocol wrote them."""
    return data if isinstance(data, bytes) else data.data if isinstance(data, Encoded) else _latin1(data)


def _latin1(text: str) -> bytes:
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        raise FormatError("a damaged pickle (bytes written as text hold other characters)") from None


def _whole(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**48


def _sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, list | tuple) and len(value) <= 16 and all(map(_whole, value)):
        return tuple(value)
    raise FormatError("a damaged pickle (a tensor's shape)")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: torch.dtype | None) -> Lazy:
    """A tensor over a storage, within it and without overlaps."""
    shape, strides = _sizes(shape), _sizes(strides)
    if not isinstance(storage, Storage):
        return Lazy(shape, f"a tensor of {storage.name if isinstance(storage, Record) else 'no known storage'}")
    if len(shape) != len(strides) or not _whole(offset):
        raise FormatError("a damaged pickle (a tensor's strides)")
    size = storage.size
    if dtype and dtype != storage.dtype:
        size = size * storage.dtype.itemsize // dtype.itemsize
    dtype, reach = dtype or storage.dtype, 1
    for stride, length in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if stride < reach:
            raise FormatError("a tensor whose elements lie upon each other (expanded); save a contiguous copy")
        reach += (length - 1) * stride
    if 0 not in shape and offset + reach > size:
        raise FormatError(f"a tensor of shape {list(shape)} that its storage of {size} numbers cannot hold")

    def read() -> Tensor:
        data = storage.data()
        if len(data) < (storage.begin * storage.dtype.itemsize) + size * dtype.itemsize:
            raise FormatError(f"truncated: storage {storage.key} has {len(data)} bytes for {size} numbers")
        whole = torch.frombuffer(bytearray(data), dtype=dtype)
        return whole.as_strided(shape, strides, storage.begin + offset).clone(memory_format=torch.contiguous_format)

    return Lazy(shape, dtype, read, (storage.key, storage.begin + offset))


def _numpy(name: str, function: str, arguments: tuple) -> Any:
    if function == "_reconstruct":
        return Lazy()
    if name == "numpy.dtype" and arguments:
        return _DType(str(arguments[0]))
    if function == "_frombuffer":
        found = Lazy()
        data, dtype, shape, order = arguments
        _fill(found, shape, dtype, order == "F", data)
        return found
    return Record(name, arguments)


def _fill(array: Lazy, shape: Any, dtype: Any, fortran: Any, data: Any) -> None:
    """Give an array what its state says. The type is one of ours by its name: a file that builds numpy's types itself
    can make numpy write to any address."""
    array.shape = _sizes(shape)
    name = dtype.name if isinstance(dtype, _DType) else ""
    if name not in ARRAYS or not isinstance(data, bytes | Encoded | str):
        array.dtype = "an array of objects" if name == "O" or isinstance(data, list) else f"an array of type {name!r}"
        return
    size = len(data.text if isinstance(data, Encoded) else data)
    kind = np.dtype(name).newbyteorder(">" if dtype.order == ">" else "<")
    if size != math.prod(array.shape) * kind.itemsize:
        raise FormatError(f"an array of shape {list(array.shape)} with {size} bytes")
    shape = array.shape

    def read() -> Tensor:
        found = np.frombuffer(bytes_of(data), kind).reshape(shape, order="F" if fortran else "C")
        return torch.from_numpy(found.astype(kind.newbyteorder("="), order="C"))

    array.dtype, array.read, array.place = ARRAYS[name], read, id(data)
