"""Read pickles of unknown origin: dicts, lists, tuples, sets and placeholders are made, and nothing is called.

A pickle is a program. Python's own machine hashes whatever the program takes for a key: a tuple of two references to a
tuple of two references, and so on 60 deep, takes 2**60 steps. Here a key is a short text or a number, and no step takes
longer than its bytes.
"""

import io
import pickletools
from collections import OrderedDict
from collections.abc import Callable

LIMIT = 2**20  # bytes of a pickle: those of a dVAE have 30,000
STEPS = 2**18  # each may take 200 bytes of memory
TEXT = 500  # characters of a name or a key

CONTAINERS = {"collections.OrderedDict": OrderedDict, "builtins.set": set, "__builtin__.set": set}
MADE: dict[str, Callable] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
MADE |= {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Instructions whose argument is the value itself.
WRITTEN = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
}
WRITTEN |= {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}


class Name(str):
    """The full name of a class or function, which is not imported."""


class Placeholder:
    """Stands for an object: the name of the class or function, its arguments, and the state of the object."""

    def __init__(self, stands_for, arguments):
        self.stands_for, self.arguments, self.state = stands_for, arguments, {}


class Machine:
    """Reads one pickle.

    Args:
        is_known: a function of the full name of a class or function: whether weights need it. Any other stops the
            reading.
        refer: a function from a persistent reference to what it stands for.
    """

    def __init__(self, is_known, refer):
        self.is_known, self.refer = is_known, refer
        self.stack, self.below, self.memo, self.left = [], [], {}, STEPS

    def read(self, file):
        """Read the pickle that begins at the position of `file`, and leave the file at its end.

        Raises:
            ValueError: if it asks for what weights have no need of.
            Exception: of many types, if it is damaged.
        """
        start = file.tell()
        program = io.BytesIO(file.read(LIMIT))  # a file would make room for whatever length a text claims to have
        # genops only parses; it runs nothing.
        for opcode, argument, _ in pickletools.genops(program):
            self._spend(1)
            self._step(opcode.name, argument)
        file.seek(start + program.tell())
        (value,) = self.stack
        return value

    def _spend(self, count):
        self.left -= count
        if self.left < 0:
            raise ValueError(f"its pickle takes more than {STEPS} steps, which is too many for weights")

    def _step(self, name, argument):
        if name in MADE:
            self.stack.append(MADE[name]())
        elif name in WRITTEN:
            self.stack.append(argument)
        elif name in TUPLES:
            self.stack[-TUPLES[name] :] = [tuple(self.stack[-TUPLES[name] :])]
        # PUT names its place in the memo; MEMOIZE takes the next one.
        elif name == "MEMOIZE" or name.endswith("PUT"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name.endswith("GET"):
            self.stack.append(self.memo[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            if name not in STEPS_BY_NAME:
                raise ValueError(f"its pickle has the instruction {name}, which weights have no need of")
            STEPS_BY_NAME[name](self, argument)

    def _mark(self, _):
        self.below.append(self.stack)
        self.stack = []

    def _marked(self):
        """Pop the items above the last mark, and the mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def _join(self, kind):
        items = kind(self._marked())
        self.stack.append(items)

    def _pop(self, _):
        if self.stack:
            self.stack.pop()
        else:
            self._marked()

    def _append(self, items):
        found = self.stack[-1]
        if type(found) is not list:
            raise ValueError("its pickle appends to what is no list")
        found.extend(items)

    def _set_items(self, pairs):
        found = self.stack[-1]
        if not isinstance(found, dict):
            raise ValueError("its pickle sets an item of what is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            found[_hashable(key)] = value

    def _add_items(self, items):
        self.stack[-1].update(map(_hashable, items))

    def _dict(self, _):
        pairs = self._marked()
        self.stack.append({})
        self._set_items(pairs)

    def _name(self, argument):
        """Push a name, from the argument "module name" or from two texts on the stack."""
        if argument is None:
            argument = " ".join([self.stack.pop(), self.stack.pop()][::-1])  # the module was pushed first
        full = argument.replace(" ", ".", 1)
        if len(full) > TEXT or (full not in CONTAINERS and not self.is_known(full)):
            raise ValueError(
                f"it asks for {full:.100}, which weights have no need of and which was not run (a file that torch.save"
                " made of model.state_dict() asks for nothing)"
            )
        self.stack.append(Name(full))

    def _make(self, name, arguments):
        # A text in a pickle is a plain str; only `_name` makes a Name, of what it has checked.
        if type(name) is not Name or type(arguments) is not tuple:
            raise ValueError("its pickle makes an object of what is no class")
        if name not in CONTAINERS:
            self.stack.append(Placeholder(str(name), arguments))
            return
        self.stack.append(CONTAINERS[name]())
        # Containers are copied, so a short pickle could fill the memory by copying one again and again.
        for items in arguments:
            self._spend(len(items))
            if CONTAINERS[name] is set:
                self._add_items(items)
            else:
                self._set_items([part for key, value in items for part in (key, value)])

    def _reduce(self, _):
        arguments = self.stack.pop()
        self._make(self.stack.pop(), arguments)

    def _instance(self, argument):
        """Make an instance of a class, named in the argument or below its arguments, all above a mark."""
        items = self._marked()
        if argument is not None:
            self._name(argument)
            items.insert(0, self.stack.pop())
        self._make(items[0], tuple(items[1:]))

    def _build(self, _):
        state = self.stack.pop()
        if isinstance(self.stack[-1], Placeholder):
            self.stack[-1].state = state
        elif not isinstance(
            self.stack[-1], dict
        ):  # the attributes of a dict, such as versions of modules, are not needed
            raise ValueError("its pickle gives a state to what has none")

    def _refer(self, _):
        self.stack.append(self.refer(self.stack.pop()))


def _hashable(key):
    if (
        not isinstance(key, (str, int, float, type(None)))
        or (isinstance(key, str) and len(key) > TEXT)
        or (isinstance(key, int) and abs(key) >= 2**64)
    ):
        raise ValueError("it has a key that is neither a short text nor a number")
    return key


STEPS_BY_NAME = {
    "MARK": Machine._mark,
    "POP": Machine._pop,
    "POP_MARK": lambda machine, _: machine._marked(),
    "TUPLE": lambda machine, _: machine._join(tuple),
    "LIST": lambda machine, _: machine._join(list),
    "DICT": Machine._dict,
    "APPEND": lambda machine, _: machine._append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._marked()),
    "SETITEM": lambda machine, _: machine._set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine._set_items(machine._marked()),
    "ADDITEMS": lambda machine, _: machine._add_items(machine._marked()),
    "GLOBAL": Machine._name,
    "STACK_GLOBAL": Machine._name,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "INST": Machine._instance,
    "OBJ": Machine._instance,
    "BUILD": Machine._build,
    "BINPERSID": Machine._refer,
}
