"""Read what a pickle says without doing what it says.

A pickle is a program for a machine with a stack. Python's own reader imports what the program names and calls it, so
that whoever wrote the file may run anything. Here the program is taken apart into its instructions and followed with
stand-ins: nothing is imported, nothing is called. Of names, only those are let by that gensim's vectors have.
"""

import io
import pickletools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Python's own, NumPy's, and what gensim keeps beside the vectors; its classes are all that begin with "gensim.".
_NAMES = frozenset(
    {
        "builtins.object",
        "builtins.set",
        "builtins.frozenset",
        "builtins.int",
        "builtins.float",
        "builtins.hash",
        "builtins.bytes",
        "builtins.bytearray",
        "collections.OrderedDict",
        "collections.defaultdict",
        "copyreg._reconstructor",
        "_codecs.encode",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.numeric._frombuffer",
        "numpy.core.numeric._frombuffer",
        "numpy.random._pickle.__randomstate_ctor",
        "numpy.random._pickle.__bit_generator_ctor",
        "numpy.random._mt19937.MT19937",
        "numpy.float32",
        "numpy.float64",
        "numpy.random.mtrand.RandomState",
    }
)
_OLD = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names
_KINDS = {"f2", "f4", "f8", "i4", "i8", "u4", "u8", "u1", "i1", "b1"}
_SAYS_NOTHING = ("PROTO", "FRAME")
_PLAIN = (
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG4",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
    "BINSTRING",
    "SHORT_BINSTRING",
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class UnsafePickleError(Exception):
    """What a pickle says is damaged, or names code."""


@dataclass
class GlobalName:
    """A class or function that the pickle names."""

    path: str


@dataclass(eq=False)
class PickledObject:
    """An object: what it would be made of, and the state that it would be given."""

    path: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """Return an attribute, or None."""
        return self.state.get(name) if isinstance(self.state, dict) else None


_MARK = object()


def read_pickle(data: bytes) -> Any:
    """Return what a pickle of protocol 2 to 5 holds: plain values, ``PickledObject`` for objects.

    Raises:
        UnsafePickleError: it is cut or damaged, or names something that gensim's vectors do not.
    """
    try:
        # Of instructions that are refused anyway, the library warns of how they are written.
        with warnings.catch_warnings(action="ignore"):
            return _followed(_Machine(), pickletools.genops(io.BytesIO(data)))
    except UnsafePickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        reason = " ".join(f"{error}".split())[:100]
        raise UnsafePickleError(f"is no readable pickle: {reason}") from error


def _followed(machine: "_Machine", instructions: Iterator[tuple[Any, Any, int | None]]) -> Any:
    for opcode, argument, _ in instructions:
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.do(opcode.name, argument)
    raise UnsafePickleError("is no readable pickle: it has no end")


def to_array(thing: Any) -> np.ndarray | None:
    """Return the array that an object is, or None.

    Raises:
        UnsafePickleError: its bytes are not as many as its shape needs, or of no plain number type.
    """
    if not isinstance(thing, PickledObject):
        return None
    if thing.path.endswith("._frombuffer"):
        data, kind, shape, order = thing.arguments
    elif thing.path.endswith("._reconstruct") and isinstance(thing.state, tuple) and len(thing.state) == 5:
        _, shape, kind, turned, data = thing.state
        order = "F" if turned else "C"
    else:
        return None
    data = data.encode("latin-1") if isinstance(data, str) else data  # Python 2's bytes
    code = (
        str(kind.arguments[0])
        if isinstance(kind, PickledObject) and kind.path == "numpy.dtype" and kind.arguments
        else ""
    )
    sizes = [n for n in shape if type(n) is int and n >= 0] if isinstance(shape, tuple) else []
    if code not in _KINDS or not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple):
        raise UnsafePickleError(f"has an array of no plain numbers: {code[:20] or 'unknown'}")
    big = isinstance(kind.state, tuple) and len(kind.state) > 1 and kind.state[1] == ">"
    dtype = np.dtype(f"{'>' if big else '<'}{code}")
    if len(sizes) != len(shape) or int(np.prod(sizes, dtype=object)) * dtype.itemsize != len(data):
        raise UnsafePickleError("has an array whose bytes do not fit its shape")
    return np.frombuffer(bytes(data), dtype).reshape(sizes, order="F" if order == "F" else "C")


class _Machine:
    """The stack, and what was put aside to be used again."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.kept: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        if name in _SAYS_NOTHING:
            return
        if name in _PLAIN:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self.kept[len(self.kept) if argument is None else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.kept[argument])
        elif name == "GLOBAL":
            self._name(*argument.split(" ", 1))
        elif name in _STEPS:
            _STEPS[name](self)
        else:
            raise UnsafePickleError(f"has an instruction that is not followed: {name}")

    def since_mark(self) -> list[Any]:
        """Take what lies above the last mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise UnsafePickleError("is no readable pickle: a mark is missing")
        above = self.stack[at + 1 :]
        del self.stack[at:]
        return above

    def several(self, n: int) -> list[Any]:
        """Take the last ``n``."""
        if len(self.stack) < n:
            raise UnsafePickleError("is no readable pickle: its stack is empty")
        taken = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return taken

    def drop(self, values: list[Any]) -> None:
        """Leave what was taken where it is."""

    def _name(self, module: str, name: str) -> None:
        path = f"{_OLD.get(module, module)}.{name}"
        if path not in _NAMES and not path.startswith("gensim."):
            raise UnsafePickleError(f"names code, which is not run: {path[:80]}")
        self.stack.append(GlobalName(path))

    def stack_global(self) -> None:
        """Name what two texts on the stack say."""
        module, name = self.several(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnsafePickleError("is no readable pickle: a name is no text")
        self._name(module, name)

    def reduce(self) -> None:
        """Put down what a call would have made."""
        called, arguments = self.several(2)
        if not isinstance(called, GlobalName) or not isinstance(arguments, tuple):
            raise UnsafePickleError("calls what is no name")
        self.stack.append(_made(called.path, arguments))

    def build(self) -> None:
        """Give an object its state."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], PickledObject):
            raise UnsafePickleError("gives a state to what is no object")
        self.stack[-1].state = state

    def new_dict(self) -> None:
        """Make a dictionary of what lies above the last mark."""
        pairs = self.since_mark()
        self.stack.append({})
        self.add_items(pairs)

    def add_items(self, pairs: list[Any]) -> None:
        """Put keys and values into a dictionary, or an object that is like one."""
        target = self.stack[-1]
        table = target.items if isinstance(target, PickledObject) else target
        if not isinstance(table, dict) or len(pairs) % 2:
            raise UnsafePickleError("puts keys into what is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Others could be nested so deep that to hash them ends the process.
            if not isinstance(key, str | int | float | bytes | None):
                raise UnsafePickleError("has a key that is neither text nor number")
            table[key] = value

    def extend(self, values: list[Any]) -> None:
        """Put values behind a list."""
        if not isinstance(self.stack[-1], list):
            raise UnsafePickleError("puts values into what is no list")
        self.stack[-1].extend(values)


def _made(path: str, arguments: tuple[Any, ...]) -> Any:
    if path == "_codecs.encode" and len(arguments) == 2 and isinstance(arguments[0], str):
        return arguments[0].encode("latin-1")  # how protocol 2 writes bytes
    if path in ("collections.OrderedDict", "collections.defaultdict"):
        return {}
    if path.endswith("multiarray.scalar") and len(arguments) == 2 and isinstance(arguments[1], bytes):
        kind, data = arguments
        found = to_array(PickledObject("numpy._core.numeric._frombuffer", (data, kind, (1,), "C")))
        return None if found is None else found[0].item()
    if path == "copyreg._reconstructor" and arguments and isinstance(arguments[0], GlobalName):
        return PickledObject(arguments[0].path)
    return PickledObject(path, arguments)


def _new(machine: _Machine, n: int) -> None:
    called, *rest = machine.several(n)
    if not isinstance(called, GlobalName):
        raise UnsafePickleError("makes an object of what is no class")
    machine.stack.append(PickledObject(called.path, tuple(rest[0]) if isinstance(rest[0], tuple) else ()))


_STEPS: dict[str, Callable[[_Machine], None]] = {
    "MARK": lambda m: m.stack.append(_MARK),
    "EMPTY_DICT": lambda m: m.stack.append({}),
    "EMPTY_LIST": lambda m: m.stack.append([]),
    "EMPTY_TUPLE": lambda m: m.stack.append(()),
    "EMPTY_SET": lambda m: m.stack.append([]),  # as a list: what is in it is never asked for
    "DICT": _Machine.new_dict,
    "LIST": lambda m: m.stack.append(m.since_mark()),
    "TUPLE": lambda m: m.stack.append(tuple(m.since_mark())),
    "FROZENSET": lambda m: m.stack.append(m.since_mark()),
    "TUPLE1": lambda m: m.stack.append(tuple(m.several(1))),
    "TUPLE2": lambda m: m.stack.append(tuple(m.several(2))),
    "TUPLE3": lambda m: m.stack.append(tuple(m.several(3))),
    "APPEND": lambda m: m.extend(m.several(1)),
    "APPENDS": lambda m: m.extend(m.since_mark()),
    "ADDITEMS": lambda m: m.extend(m.since_mark()),
    "SETITEM": lambda m: m.add_items(m.several(2)),
    "SETITEMS": lambda m: m.add_items(m.since_mark()),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": lambda m: _new(m, 2),
    "NEWOBJ_EX": lambda m: _new(m, 3),
    "BUILD": _Machine.build,
    "POP": lambda m: m.drop(m.several(1)),
    "POP_MARK": lambda m: m.drop(m.since_mark()),
}
