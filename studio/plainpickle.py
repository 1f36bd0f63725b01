"""Numbers out of a pickle, without unpickling.

A pickle is a program for a small stack machine. Here is another such machine: it knows the few instructions that build
lists, tuples, numbers and NumPy's arrays of them, calls nothing that the pickle names, and holds a few times its size.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.errors import BadMedia

MAX_BYTES = 8 << 20
NUMBERS = {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} - {"f1"}

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def numbers(data: bytes) -> Any:
    """What the pickle `data` holds: numbers, None, text, bytes, and lists and tuples of such; arrays come as lists.

    Blocking, up to 10 s for the largest. BadMedia if it asks for anything else by name, is damaged, or has over 8 MB.
    """
    if len(data) > MAX_BYTES:
        raise BadMedia(f"the pickle has more than {MAX_BYTES >> 20} MB")
    try:
        return _settled(_Machine().run(data))
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise BadMedia("the pickle is damaged, or no list of numbers") from error


@dataclass(frozen=True)
class _Name:
    """Something that the pickle asks for; only those in REDUCERS may be called, and that calls ours."""

    module: str
    name: str


@dataclass
class _DType:
    code: str
    order: str = "<"

    def build(self, state: Sequence[Any]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass
class _Array:
    """An array under construction: its pickle makes it empty and fills it in afterwards."""

    array: Any = None

    def build(self, state: Sequence[Any]) -> None:
        _, shape, dtype, fortran, data = state
        self.array = _array(data, dtype, shape, "F" if fortran else "C").array


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    encoded: int = 0  # characters of text that became bytes: the same text might, a million times

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise ValueError("no end")

    def step(self, name: str, argument: Any) -> None:
        """One instruction. ValueError if it is none that builds numbers."""
        if name in VALUES:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in TUPLES:
            self.stack.append(tuple(self.taken(TUPLES[name])))
        elif name not in ("PROTO", "FRAME"):
            STEPS[name](self, argument)

    def taken(self, n: int) -> list[Any]:
        """The top `n` of the stack, taken off it."""
        if not 0 <= n <= len(self.stack):
            raise ValueError("the stack is too short")
        at = len(self.stack) - n
        top, self.stack[at:] = self.stack[at:], []
        return top

    def since_mark(self) -> list[Any]:
        return self.taken(len(self.stack) - self.marks.pop())

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("no list")
        self.stack[-1].extend(items)

    def call(self) -> None:
        what, arguments = self.taken(2)
        if not isinstance(what, _Name):
            raise TypeError("nothing to call")
        self.encoded += len(arguments[0]) if isinstance(arguments[0], str) else 0
        if self.encoded > MAX_BYTES:
            raise ValueError("too much text")
        self.stack.append(REDUCERS[what](*arguments))

    def build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _DType | _Array):
            raise TypeError("nothing to fill in")
        self.stack[-1].build(state)


STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "LIST": lambda machine, _: machine.stack.append(machine.since_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "APPEND": lambda machine, _: machine.extend(machine.taken(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "MEMOIZE": lambda machine, _: machine.memo.update({len(machine.memo): machine.stack[-1]}),
    "GLOBAL": lambda machine, names: machine.stack.append(_known(*names.split(" "))),
    "STACK_GLOBAL": lambda machine, _: machine.stack.append(_known(*machine.taken(2))),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    **dict.fromkeys(
        ("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, place: machine.memo.update({place: machine.stack[-1]})
    ),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, place: machine.stack.append(machine.memo[place])),
}


def _known(module: object, name: object) -> _Name:
    """What the pickle asks for by name. BadMedia if it is nothing that numbers are made with."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("no name")
    wanted = _Name(module.replace("numpy.core.", "numpy._core."), name)
    if wanted not in REDUCERS:
        raise BadMedia(f"the pickle asks for {f'{module}.{name}'[:80]!r}: only lists of numbers are read")
    return wanted


def _dtype(code: object, *_: Any) -> _DType:
    if not isinstance(code, str) or code not in NUMBERS:
        raise ValueError("no numbers")
    return _DType(code)


def _scalar(dtype: _DType, data: bytes) -> float | int:
    return _array(data, dtype, (1,), "C").array.item()  # type: ignore[no-any-return]


def _array(data: bytes | bytearray, dtype: _DType, shape: Sequence[int], order: object = "C") -> _Array:
    """Numbers of `shape` that share the memory of `data`."""
    return _Array(np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C"))


def _encoded(text: str, *_: Any) -> bytes:
    return text.encode("latin-1")


def _nothing(*_: Any) -> _Array:
    return _Array()


REDUCERS: dict[_Name, Callable[..., Any]] = {
    _Name("numpy", "dtype"): _dtype,
    _Name("numpy", "ndarray"): _nothing,
    _Name("numpy._core.multiarray", "scalar"): _scalar,
    _Name("numpy._core.multiarray", "_reconstruct"): _nothing,
    _Name("numpy._core.numeric", "_frombuffer"): _array,
    _Name("_codecs", "encode"): _encoded,
}


def _settled(value: Any) -> Any:
    """`value` with arrays as lists, as deep as a list of boxes goes."""
    items = list(value) if isinstance(value, list | tuple) else [value]
    if sum(item.array.size for item in items if isinstance(item, _Array)) > MAX_BYTES:
        raise ValueError("too many numbers")  # the same array a million times
    settled = [item.array.tolist() if isinstance(item, _Array) else item for item in items]
    return settled if isinstance(value, list | tuple) else settled[0]
