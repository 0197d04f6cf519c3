"""CEL's own syntax tree, read from what its compiler serialises, and written as CEL again.

The compiler gives no tree to Python, but `Expression.serialize()` is a `cel.expr.CheckedExpr` in protobuf's wire
format, which is public and stable (cel-spec, proto/cel/expr/{checked,syntax}.proto). Names are resolved in it:
`principal.state` is one identifier. Macros are expanded in it; `exists` and `all` are known again by their shape.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple, Union

import msgspec

OPERATORS = {
    "_&&_": "&&", "_||_": "||", "_==_": "==", "_!=_": "!=", "_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">=",
    "@in": "in", "_+_": "+", "_-_": "-", "_*_": "*", "_/_": "/", "_%_": "%",
}  # fmt: skip
"""Binary operators by the name of their function."""


class Const(msgspec.Struct, frozen=True):
    """A literal; `unsigned` tells 1u from 1."""

    value: bool | int | float | str | bytes | None
    unsigned: bool = False


class Ident(msgspec.Struct, frozen=True):
    """A variable."""

    name: str


class Select(msgspec.Struct, frozen=True):
    """A field of something; `test`: whether it is there (`has`)."""

    operand: "Node"
    field: str
    test: bool


class Call(msgspec.Struct, frozen=True):
    """A function, an operator among them; `target` is what stands before its dot. `at`: its offset in the source."""

    function: str
    target: Union["Node", None]
    args: tuple["Node", ...]
    at: int = 0


class ListOf(msgspec.Struct, frozen=True):
    """A list literal."""

    items: tuple["Node", ...]


class Fold(msgspec.Struct, frozen=True):
    """`over.exists(variable, body)`, or `all`."""

    macro: str
    over: "Node"
    variable: str
    body: "Node"


class Other(msgspec.Struct, frozen=True):
    """What no condition may hold: maps and messages."""

    what: str


Node = Const | Ident | Select | Call | ListOf | Fold | Other


class Truncated(ValueError):
    """The bytes are no CheckedExpr; a compiler of another version, perhaps."""


class _Field(NamedTuple):
    number: int
    value: int | bytes


def read_expression(serialized: bytes) -> Node:
    """The tree in what `Expression.serialize()` gave: a CheckedExpr inside an Any. Raises Truncated."""
    try:
        checked = next(_messages(serialized, 2))
        tree = next(_messages(checked, 4))
        positions = {
            _number(entry, 1): _number(entry, 2) for info in _messages(checked, 5) for entry in _messages(info, 4)
        }
        return _Reader(positions).node(tree)
    except (StopIteration, IndexError, struct.error) as problem:
        raise Truncated("the compiler's output is not understood") from problem


class _Reader:
    def __init__(self, positions: dict[int, int]) -> None:
        self.positions = positions

    def node(self, data: bytes) -> Node:
        """An `Expr`: id 2, then one of const 3, ident 4, select 5, call 6, list 7, struct 8, comprehension 9."""
        number = _number(data, 2)
        for field, value in _fields(data):
            if field == 2 or isinstance(value, int):
                continue
            if field == 3:
                return _const(value)
            if field == 4:
                return Ident(_text(value, 1))
            if field == 5:
                return Select(self.node(next(_messages(value, 1))), _text(value, 2), bool(_number(value, 3)))
            if field == 6:
                return self._call(value, number)
            if field == 7:
                return ListOf(tuple(self.node(item) for item in _messages(value, 1)))
            return self._fold(value) if field == 9 else Other("a map")
        return Other("nothing")

    def _fold(self, data: bytes) -> Node:
        """A comprehension: variable 1, list 2, accumulator 3, its beginning 4, step 6."""
        begins, step = self.node(next(_messages(data, 4))), self.node(next(_messages(data, 6)))
        for macro, start, function in (("exists", Const(False), "_||_"), ("all", Const(True), "_&&_")):
            if begins == start and isinstance(step, Call) and step.function == function:
                return Fold(macro, self.node(next(_messages(data, 2))), _text(data, 1), step.args[1])
        return Other("a macro other than 'exists' and 'all'")

    def _call(self, data: bytes, number: int) -> Call:
        target = next(_messages(data, 1), None)
        args = tuple(self.node(arg) for arg in _messages(data, 3))
        at = self.positions.get(number, 0)
        return Call(_text(data, 2), None if target is None else self.node(target), args, at)


def _const(data: bytes) -> Const:
    for field, value in _fields(data):
        if isinstance(value, bytes):
            if field == 5:
                return Const(struct.unpack("<d", value)[0])
            return Const(value.decode() if field == 6 else value)
        if field == 1:
            return Const(None)
        if field == 2:
            return Const(bool(value))
        return Const(value - 2**64 if field == 3 and value >= 2**63 else value, unsigned=field == 4)
    return Const(None)


def _fields(data: bytes) -> Iterator[_Field]:
    """Protobuf's wire format: varints, eight bytes, or bytes with their length before them."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield _Field(key >> 3, value)
            continue
        size = 8
        if kind == 2:
            size, at = _varint(data, at)
        elif kind != 1:
            raise Truncated(f"wire type {kind}")
        if at + size > len(data):
            raise Truncated("too short")
        yield _Field(key >> 3, data[at : at + size])
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _messages(data: bytes, number: int) -> Iterator[bytes]:
    return (value for field, value in _fields(data) if field == number and isinstance(value, bytes))


def _number(data: bytes, number: int) -> int:
    return next((value for field, value in _fields(data) if field == number and isinstance(value, int)), 0)


def _text(data: bytes, number: int) -> str:
    return next(_messages(data, number), b"").decode()


def write(node: Node) -> str:
    """The tree as CEL, in parentheses wherever something is put together. Equal trees give equal text."""
    if isinstance(node, Const):
        return _literal(node)
    if isinstance(node, Ident):
        return node.name
    if isinstance(node, ListOf):
        return f"[{', '.join(write(item) for item in node.items)}]"
    if isinstance(node, Select):
        written = f"{write(node.operand)}.{node.field}"
        return f"has({written})" if node.test else written
    if isinstance(node, Fold):
        return f"{write(node.over)}.{node.macro}({node.variable}, {write(node.body)})"
    if isinstance(node, Call):
        return _written_call(node)
    raise Truncated(f"{node.what} cannot be written")


def _written_call(node: Call) -> str:
    args = [write(arg) for arg in node.args]
    if node.function in OPERATORS:
        return f"({f' {OPERATORS[node.function]} '.join(args)})"
    if node.function == "_?_:_":
        return f"({args[0]} ? {args[1]} : {args[2]})"
    if node.function == "!_":
        return f"!{args[0]}" if args[0].startswith("(") or isinstance(node.args[0], Ident) else f"!({args[0]})"
    if node.function == "-_":
        return f"-({args[0]})"
    if node.function == "_[_]":
        return f"{args[0]}[{args[1]}]"
    before = "" if node.target is None else f"{write(node.target)}."
    return f"{before}{node.function}({', '.join(args)})"


def _literal(node: Const) -> str:
    value = node.value
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value}u" if node.unsigned else f"({value})" if value < 0 else str(value)
    if isinstance(value, float):
        return repr(value).replace("inf", "1e999")
    if isinstance(value, bytes):
        return 'b"' + "".join(f"\\x{byte:02x}" for byte in value) + '"'
    return '"' + "".join(_escaped(character) for character in value) + '"'


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if 32 <= code < 127:
        return character
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def children(node: Node) -> tuple[Node, ...]:
    """The parts of a node."""
    if isinstance(node, Call):
        return node.args if node.target is None else (node.target, *node.args)
    if isinstance(node, ListOf):
        return node.items
    if isinstance(node, Select):
        return (node.operand,)
    return (node.over, node.body) if isinstance(node, Fold) else ()


def walk(node: Node) -> Iterator[Node]:
    """A node and all that is in it."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        waiting.extend(children(found))
