"""Reads Qt's binary resource files (.rcc): a tree of names, and the files' contents, in memory.

Source: the format as Qt's resource compiler writes it (header "qres", versions 1 to 3; all numbers big-endian).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from sensorium.starter.builder.packages import BuildError

_MAGIC = b"qres"
_HEADER = struct.Struct(">4sIIII")
_NODE = struct.Struct(">IHII")
# A node of version 1; later versions add the time of change.
_NODE_SIZES = {1: 14, 2: 22, 3: 22}
_COMPRESSED, _DIRECTORY, _ZSTD = 1, 2, 4
_MAX_FILES = 10_000
_MAX_DEPTH = 32
_MAX_FILE_BYTES = 32 << 20


def read_resources(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the files of a resource file, in its order.

    Args:
        data: the resource file.
        name: names it in errors.

    Raises:
        BuildError: it is no such file, is damaged, or larger than any that we know.
    """
    try:
        yield from _read(data, name)
    except (struct.error, zlib.error, UnicodeDecodeError, IndexError) as error:
        raise BuildError(
            f"{name}: is a damaged Qt resource file ({error}); delete its package to fetch it again"
        ) from error


def _read(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    magic, version, tree, contents, names = _HEADER.unpack_from(data)
    if magic != _MAGIC or version not in _NODE_SIZES:
        raise BuildError(f"{name}: starts with {data[:8]!r}, expected a Qt resource file of version 1 to 3")
    size, num_nodes = _NODE_SIZES[version], 0
    stack: list[tuple[int, str, int]] = [(0, "", 0)]
    while stack:
        index, parent, depth = stack.pop()
        num_nodes += 1
        if num_nodes > _MAX_FILES or depth > _MAX_DEPTH:
            raise BuildError(
                f"{name}: holds more than {_MAX_FILES} files or {_MAX_DEPTH} levels; it is damaged"
            )
        name_offset, flags, first, second = _NODE.unpack_from(data, tree + index * size)
        path = f"{parent}/{_string(data, names + name_offset)}" if index else ""
        if flags & _DIRECTORY:
            # Country and language share these bytes with files; of a directory they count and place the children.
            count, child = first, second
            if count > _MAX_FILES:
                raise BuildError(f"{name}: a folder of {count} files; at most {_MAX_FILES} are known")
            stack.extend((child + k, path, depth + 1) for k in reversed(range(count)))
        else:
            yield path, _content(data, contents + second, flags, name)


def _string(data: bytes, offset: int) -> str:
    (length,) = struct.unpack_from(">H", data, offset)
    return data[offset + 6 : offset + 6 + 2 * length].decode("utf-16-be")


def _content(data: bytes, offset: int, flags: int, name: str) -> bytes:
    (length,) = struct.unpack_from(">I", data, offset)
    if length > _MAX_FILE_BYTES or offset + 4 + length > len(data) or flags & _ZSTD:
        raise BuildError(f"{name}: a file of {length} bytes (flags {flags}) cannot be read; it is damaged")
    content = data[offset + 4 : offset + 4 + length]
    if not flags & _COMPRESSED:
        return content
    # The size of the content stands before its compressed bytes.
    inflater = zlib.decompressobj()
    plain = inflater.decompress(content[4:], _MAX_FILE_BYTES)
    if inflater.unconsumed_tail:
        raise BuildError(f"{name}: a file inflates to more than {_MAX_FILE_BYTES} bytes; it is damaged")
    return plain
