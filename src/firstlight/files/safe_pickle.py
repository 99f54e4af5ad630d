"""Read pickles safely: instructions are interpreted with placeholders; nothing is imported, nothing is called.

A pickle is a program for a stack machine, and Python's own reader runs it: it imports the names in it and calls them,
so that the author of the file can run anything. Here the instructions are followed without that. Only the names that
gensim's vectors contain are accepted.
"""

import io
import pickletools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Of Python and NumPy; names that start with "gensim." are accepted too.
_ACCEPTED_NAMES = frozenset(
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
_PYTHON2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names
_DTYPES = {"f2", "f4", "f8", "i4", "i8", "u4", "u8", "u1", "i1", "b1"}
_IGNORED = ("PROTO", "FRAME")
_LITERALS = (
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
    """A pickle that is damaged, or refers to code."""


@dataclass
class GlobalName:
    """A class or function that the pickle refers to."""

    path: str


@dataclass(eq=False)
class PickledObject:
    """A placeholder for an object: its constructor arguments and its state."""

    path: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """Return an attribute of the state, or None."""
        return self.state.get(name) if isinstance(self.state, dict) else None


_MARK = object()


def read_pickle(data: bytes) -> Any:
    """Read a pickle of protocol 2 to 5: plain values, and a ``PickledObject`` for each object.

    Raises:
        UnsafePickleError: it is truncated or damaged, or refers to a name that is not accepted.
    """
    try:
        # The library warns about instructions that are rejected anyway.
        with warnings.catch_warnings(action="ignore"):
            return _interpret(_Machine(), pickletools.genops(io.BytesIO(data)))
    except UnsafePickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        reason = " ".join(f"{error}".split())[:100]
        raise UnsafePickleError(f"is not a readable pickle: {reason}") from error


def _interpret(machine: "_Machine", instructions: Iterator[tuple[Any, Any, int | None]]) -> Any:
    for opcode, argument, _ in instructions:
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.do(opcode.name, argument)
    raise UnsafePickleError("is not a readable pickle: it has no end")


def to_array(thing: Any) -> np.ndarray | None:
    """Convert a placeholder of a NumPy array to the array; None for anything else.

    Raises:
        UnsafePickleError: its bytes do not fit its shape, or its dtype is not a plain number.
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
    if code not in _DTYPES or not isinstance(data, bytes | bytearray) or not isinstance(shape, tuple):
        raise UnsafePickleError(f"has an array whose dtype is not a plain number: {code[:20] or 'unknown'}")
    big = isinstance(kind.state, tuple) and len(kind.state) > 1 and kind.state[1] == ">"
    dtype = np.dtype(f"{'>' if big else '<'}{code}")
    if len(sizes) != len(shape) or int(np.prod(sizes, dtype=object)) * dtype.itemsize != len(data):
        raise UnsafePickleError("has an array whose bytes do not fit its shape")
    return np.frombuffer(bytes(data), dtype).reshape(sizes, order="F" if order == "F" else "C")


class _Machine:
    """The stack machine: its stack and memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """Execute one instruction."""
        if name in _IGNORED:
            return
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self._name(*argument.split(" ", 1))
        elif name in _STEPS:
            _STEPS[name](self)
        else:
            raise UnsafePickleError(f"has an unsupported instruction: {name}")

    def since_mark(self) -> list[Any]:
        """Pop everything above the last mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise UnsafePickleError("is not a readable pickle: a mark is missing")
        above = self.stack[at + 1 :]
        del self.stack[at:]
        return above

    def pop_n(self, n: int) -> list[Any]:
        """Pop the last ``n`` values."""
        if len(self.stack) < n:
            raise UnsafePickleError("is not a readable pickle: its stack is empty")
        taken = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        return taken

    def drop(self, values: list[Any]) -> None:
        """Discard values that were popped."""

    def _name(self, module: str, name: str) -> None:
        path = f"{_PYTHON2_MODULES.get(module, module)}.{name}"
        if path not in _ACCEPTED_NAMES and not path.startswith("gensim."):
            raise UnsafePickleError(f"refers to code, which is not run: {path[:80]}")
        self.stack.append(GlobalName(path))

    def stack_global(self) -> None:
        """Push the global whose module and name are on the stack."""
        module, name = self.pop_n(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnsafePickleError("is not a readable pickle: a name is not a string")
        self._name(module, name)

    def reduce(self) -> None:
        """Push a placeholder for the result of a call."""
        called, arguments = self.pop_n(2)
        if not isinstance(called, GlobalName) or not isinstance(arguments, tuple):
            raise UnsafePickleError("calls something that is not a name")
        self.stack.append(_call_result(called.path, arguments))

    def build(self) -> None:
        """Set the state of an object."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], PickledObject):
            raise UnsafePickleError("sets the state of something that is not an object")
        self.stack[-1].state = state

    def new_dict(self) -> None:
        """Push a dictionary of everything above the last mark."""
        pairs = self.since_mark()
        self.stack.append({})
        self.add_items(pairs)

    def add_items(self, pairs: list[Any]) -> None:
        """Add keys and values to a dictionary or a dictionary-like object."""
        target = self.stack[-1]
        table = target.items if isinstance(target, PickledObject) else target
        if not isinstance(table, dict) or len(pairs) % 2:
            raise UnsafePickleError("adds keys to something that is not a dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Others could be nested so deeply that hashing them crashes the process.
            if not isinstance(key, str | int | float | bytes | None):
                raise UnsafePickleError("has a key that is neither a string nor a number")
            table[key] = value

    def extend(self, values: list[Any]) -> None:
        """Append values to a list."""
        if not isinstance(self.stack[-1], list):
            raise UnsafePickleError("adds values to something that is not a list")
        self.stack[-1].extend(values)


def _call_result(path: str, arguments: tuple[Any, ...]) -> Any:
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
    called, *rest = machine.pop_n(n)
    if not isinstance(called, GlobalName):
        raise UnsafePickleError("constructs something that is not a class")
    machine.stack.append(PickledObject(called.path, tuple(rest[0]) if isinstance(rest[0], tuple) else ()))


_STEPS: dict[str, Callable[[_Machine], None]] = {
    "MARK": lambda m: m.stack.append(_MARK),
    "EMPTY_DICT": lambda m: m.stack.append({}),
    "EMPTY_LIST": lambda m: m.stack.append([]),
    "EMPTY_TUPLE": lambda m: m.stack.append(()),
    "EMPTY_SET": lambda m: m.stack.append([]),  # as a list: its contents are never used
    "DICT": _Machine.new_dict,
    "LIST": lambda m: m.stack.append(m.since_mark()),
    "TUPLE": lambda m: m.stack.append(tuple(m.since_mark())),
    "FROZENSET": lambda m: m.stack.append(m.since_mark()),
    "TUPLE1": lambda m: m.stack.append(tuple(m.pop_n(1))),
    "TUPLE2": lambda m: m.stack.append(tuple(m.pop_n(2))),
    "TUPLE3": lambda m: m.stack.append(tuple(m.pop_n(3))),
    "APPEND": lambda m: m.extend(m.pop_n(1)),
    "APPENDS": lambda m: m.extend(m.since_mark()),
    "ADDITEMS": lambda m: m.extend(m.since_mark()),
    "SETITEM": lambda m: m.add_items(m.pop_n(2)),
    "SETITEMS": lambda m: m.add_items(m.since_mark()),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": lambda m: _new(m, 2),
    "NEWOBJ_EX": lambda m: _new(m, 3),
    "BUILD": _Machine.build,
    "POP": lambda m: m.drop(m.pop_n(1)),
    "POP_MARK": lambda m: m.drop(m.since_mark()),
}
