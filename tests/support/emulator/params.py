"""The parameter structures of csrc/cuda/device as ctypes, read from their headers."""

from __future__ import annotations

import ctypes
import functools
import re
from typing import Any

from .build import DEVICE_CODE

_TYPES: dict[str, Any] = {
    "int": ctypes.c_int,
    "long long": ctypes.c_longlong,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}


@functools.cache
def _structures() -> dict[str, type[ctypes.Structure]]:
    headers = [(DEVICE_CODE / name).read_text() for name in ("params.h", "streamed_params.h")]
    text = re.sub(r"//[^\n]*", "", "".join(headers))
    constants = {n: int(v) for n, v in re.findall(r"constexpr int (\w+) = (\d+);", text)}
    known: dict[str, type[ctypes.Structure]] = {}
    for name, body in re.findall(r"struct (\w+) \{(.*?)\};", text, re.DOTALL):
        fields = []
        for line in filter(None, (part.strip() for part in body.split(";"))):
            match = re.fullmatch(
                r"(?:const )?(long long|unsigned char|\w+)(\s*\*)?\s*(.*)", line, re.DOTALL
            )
            assert match is not None, f"{name}: {line}"
            kind = ctypes.c_void_p if match[2] else {**_TYPES, **known}[match[1]]
            for declared in match[3].split(","):
                field = re.fullmatch(r"\s*(\w+)(?:\[(\w+)\])?\s*", declared)
                assert field is not None, f"{name}: {line}"
                fields.append((field[1], kind * constants[field[2]] if field[2] else kind))
        known[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return known


def params(name: str, **values: Any) -> Any:
    """The structure `name` with these values: a tensor stands for its address, a list for an array.

    Fields that are not given are zero or null.
    """
    made = _structures()[name]()
    made.keeps_alive = values
    kinds = dict(made._fields_)
    for field, value in values.items():
        if isinstance(value, list):
            array = getattr(made, field)
            for i, element in enumerate(value):
                array[i] = element
        else:
            is_tensor = kinds[field] is ctypes.c_void_p and hasattr(value, "data_ptr")
            setattr(made, field, value.data_ptr() if is_tensor else value)
    return made


def constant(name: str) -> int:
    """A constexpr int of the header."""
    text = (DEVICE_CODE / "params.h").read_text()
    match = re.search(rf"constexpr int {name} = (\d+);", text)
    assert match is not None, name
    return int(match[1])
