"""Tensors of one element, in no transport's spelling: what adapters and transports say to each other."""

from collections.abc import Mapping

import msgspec

Value = str | bool | int | float
Tensors = Mapping[str, Value]
"""Values by the names of their tensors."""

Response = bytes | Tensors
"""One response of a generation: Triton's JSON as it came (the adapter reads it at once into its own struct, which is
what keeps a chunk cheap), or tensors that the transport has unpacked."""


class BrokenTensors(ValueError):
    """What came is not tensors; says so without their content."""


class Inputs(msgspec.Struct, frozen=True, gc=False):
    """The input tensors of one generation, each of shape [1], and the contract's datatype of every one of them."""

    values: Tensors
    datatypes: Mapping[str, str]
