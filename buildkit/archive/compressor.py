"""A gzip stream whose bytes depend on nothing but the input, the compressor, its version and its level."""

from __future__ import annotations

import queue
import threading
import zlib
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, cast

if TYPE_CHECKING:
    from collections.abc import Callable

# ISA-L's output depends on how its input is cut, so every block except the last has exactly this size.
BLOCK_BYTES = 1 << 18
FALLBACK = "zlib"  # from the standard library, if ISA-L is missing
_BLOCKS_AHEAD = 1
# No file name, no time, no flags; operating system "unknown".
GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_RAW_DEFLATE = -15
GZIP = 31
# An empty block of fixed codes, marked as the last one (RFC 1951, 3.2.3).
_LAST_BLOCK = b"\x03\0"
_ZLIB_THREADS = 2
_ISAL_MEMORY = 9  # more input for each code table: a little smaller at the same speed


class _Deflate(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Inflate(Protocol):
    """As the standard library's `bz2.BZ2Decompressor`, which keeps what it could not decompress within `max_length`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes | memoryview, max_length: int = -1) -> bytes: ...


class Compressor(NamedTuple):
    """A named way to compress; archives are comparable if `describe()` is the same.

    Attributes:
        start: Begins a raw deflate stream.
        start_reading: Begins to read a gzip member, which raises `error` if it is damaged.
    """

    name: str
    version: str
    level: int
    start: Callable[[], _Deflate]
    start_reading: Callable[[], _Inflate]
    error: type[Exception]
    crc32: Callable[[bytes, int], int]

    def describe(self) -> dict[str, str | int]:
        """Return what `context.json` records about the compressor."""
        return {"name": self.name, "version": self.version, "level": self.level}


def find_compressor(name: str = "") -> Compressor:
    """Return the compressor of that name (`isal-0` to `isal-3`, `zlib-1` to `zlib-9`).

    The default is ISA-L at level 2, whose bytes do not depend on the processor (level 3's do), or zlib at level 1 if
    the `isal` package is not installed.

    Raises:
        ValueError: There is no such compressor.
        ImportError: It is named, but not installed.
    """
    kind, _, level = (name or "isal-2").partition("-")
    levels = {"isal": "0123", "zlib": "123456789"}.get(kind, "")
    if len(level) != 1 or level not in levels:
        raise ValueError(name)
    if kind == "zlib":
        return _use_zlib(int(level))
    try:
        return _use_isal(int(level))
    except ImportError:
        if name:
            raise
        return _use_zlib(1)


class GzipWriter:
    """Writes one gzip member, compressed in a thread of its own, so that reading and compressing overlap.

    A context manager: when the block ends, everything is written, or the failure to write it is raised.

    Args:
        put: Called in that thread with the compressed bytes.
    """

    def __init__(self, put: Callable[[bytes], object], compressor: Compressor) -> None:
        self._put = put
        self._compressor = compressor
        self._failure: Exception | None = None
        self._blocks: queue.Queue[bytes | None] = queue.Queue(_BLOCKS_AHEAD)
        self._thread = threading.Thread(target=self._work, name="compressor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._blocks.put(None)
        self._thread.join()
        if error is None and self._failure is not None:
            raise self._failure

    def write(self, block: bytes) -> None:
        """Compress a block of BLOCK_BYTES, or of fewer if it is the last one.

        Raises:
            OSError: An earlier block could not be written.
        """
        if self._failure is not None:
            raise self._failure
        self._blocks.put(block)

    def _work(self) -> None:
        try:
            self._compress()
        except Exception as error:  # noqa: BLE001 - raised in the thread that waits for it
            self._failure = error
            while self._blocks.get() is not None:
                pass

    def _compress(self) -> None:
        deflate = self._compressor.start()
        checksum = size = 0
        self._put(GZIP_HEADER)
        while (block := self._blocks.get()) is not None:
            checksum = self._compressor.crc32(block, checksum)
            size += len(block)
            self._put(deflate.compress(block))
        self._put(deflate.flush())
        self._put(checksum.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little"))


class _ZlibBlocks:
    """Deflates each block by itself, in threads; the number of threads does not change the bytes."""

    def __init__(self, level: int) -> None:
        from concurrent.futures import Future, ThreadPoolExecutor  # needed only if ISA-L is missing

        self._level = level
        self._pool = ThreadPoolExecutor(_ZLIB_THREADS, "zlib")
        self._pending: deque[Future[bytes]] = deque()

    def compress(self, block: bytes, /) -> bytes:
        self._pending.append(self._pool.submit(self._deflate, block))
        return self._pending.popleft().result() if len(self._pending) > _ZLIB_THREADS else b""

    def flush(self) -> bytes:
        rest = b"".join(pending.result() for pending in self._pending)
        self._pool.shutdown()
        return rest + _LAST_BLOCK

    def _deflate(self, block: bytes) -> bytes:
        deflate = zlib.compressobj(self._level, zlib.DEFLATED, _RAW_DEFLATE)
        return deflate.compress(block) + deflate.flush(zlib.Z_SYNC_FLUSH)


class _ZlibMember:
    """A gzip member read with zlib."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(GZIP)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not (self.eof or self._inflate.unconsumed_tail)

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes | memoryview, max_length: int = -1) -> bytes:
        kept = self._inflate.unconsumed_tail
        return self._inflate.decompress(kept + bytes(data) if kept else data, max(max_length, 0))


def _use_zlib(level: int) -> Compressor:
    return Compressor(
        FALLBACK,
        zlib.ZLIB_RUNTIME_VERSION,
        level,
        start=lambda: _ZlibBlocks(level),
        start_reading=_ZlibMember,
        error=zlib.error,
        crc32=zlib.crc32,
    )


def _use_isal(level: int) -> Compressor:
    from isal import __version__, igzip_lib, isal_zlib

    return Compressor(
        "isal",
        __version__,
        level,
        start=lambda: isal_zlib.compressobj(level, isal_zlib.DEFLATED, _RAW_DEFLATE, _ISAL_MEMORY),
        start_reading=lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP),
        error=cast("type[Exception]", igzip_lib.IsalError),  # which its stub types as an instance
        crc32=isal_zlib.crc32,
    )
