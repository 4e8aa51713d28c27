"""Protobuf messages that are almost right: valid ones with extreme fields, and their bytes with faults.

Promises: pure; what is made is a function of the random generator's state. About a third are still messages that a server may take.
"""

import random
from collections.abc import Sequence

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MAX_FAULTS = 4
LONG_TEXT = 5_000
VARINTS = (b"\x00", b"\x7f", b"\xff" * 4 + b"\x0f", b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\x80" * 9 + b"\x02")
"""None, small, the largest of 32 and of 64 bits, one without an end, one that is too long."""

NUMBERS = {
    FieldDescriptor.CPPTYPE_UINT32: (0, 1, 2, 255, (1 << 31) - 1, 1 << 31, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
    FieldDescriptor.CPPTYPE_INT32: (-1, 0, 1, -(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: (0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, float("inf"), float("-inf"), float("nan")),
    FieldDescriptor.CPPTYPE_FLOAT: (0.0, 1.0, -1.0, 1e-38, 3e38, float("inf"), float("nan")),
    FieldDescriptor.CPPTYPE_BOOL: (False, True),
}
TEXTS = ("", "a", "\0", "é🙂\u2028", "x" * LONG_TEXT, "demo", "a\nb\r\x1b[31m", "%s{}", "../../etc/passwd")


def almost(message: Message, rng: random.Random, faulty: float) -> bytes:
    """Bytes made of a valid message, which is left as it is; a share of `faulty` has bytes with faults."""
    changed = type(message)()
    changed.CopyFrom(message)
    if rng.random() < 0.6:
        for _ in range(rng.randint(1, 3)):
            make_extreme(changed, rng)
    data = changed.SerializeToString()
    return with_faults(data, rng) if rng.random() < faulty else data


def make_extreme(message: Message, rng: random.Random) -> None:
    """Gives one field, here or in a message below, an extreme value, where there are any."""
    if not message.DESCRIPTOR.fields:
        return
    field = rng.choice(message.DESCRIPTOR.fields)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        for _ in range(rng.choice((1, 2, 50, 2_000))):
            getattr(message, field.name)[extreme(key, rng)] = extreme(value, rng)
    elif field.message_type is not None:
        inner = getattr(message, field.name)
        if field.is_repeated:
            if rng.random() < 0.2:
                del inner[:]
            inner = rng.choice(inner) if inner and rng.random() < 0.8 else inner.add()
        elif rng.random() < 0.1:
            message.ClearField(field.name)
            return
        else:
            inner.SetInParent()
        make_extreme(inner, rng)
    elif field.is_repeated:
        count = rng.choice((0, 1, 2, 50, 2_000))
        getattr(message, field.name)[:] = [extreme(field, rng) for _ in range(count)]
    else:
        setattr(message, field.name, extreme(field, rng))


def extreme(field: FieldDescriptor, rng: random.Random) -> object:
    """Of a field that holds no message."""
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.randbytes(rng.choice((0, 1, 2, 64, 20_000)))
    return rng.choice(TEXTS if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else NUMBERS[field.cpp_type])


def with_faults(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, MAX_FAULTS)):
        data = _with_fault(data, rng)
    return data


def _with_fault(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((0, 1, 2, 8, 64)))
    match rng.randrange(6):
        case 0:  # flipped bits
            return data[:start] + bytes(byte ^ (1 << rng.randrange(8)) for byte in data[start:end]) + data[end:]
        case 1:  # something taken out
            return data[:start] + data[end:]
        case 2:  # something twice
            return data[:end] + data[start:]
        case 3:  # something put in
            return data[:start] + rng.randbytes(rng.randint(1, 8)) + data[start:]
        case 4:  # a number that is none, or the largest
            return data[:start] + rng.choice(VARINTS) + data[end:]
    return data[:start]  # an end too soon


def spliced(messages: Sequence[Message], rng: random.Random) -> bytes:
    """The beginning of one and the end of another."""
    first, second = (rng.choice(messages).SerializeToString() for _ in range(2))
    return first[: rng.randrange(len(first) + 1)] + second[rng.randrange(len(second) + 1) :]
