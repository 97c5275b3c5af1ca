"""Task `serve`: a Runtime API of our own, until it is told to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildkit.errors import SettingError, run
from buildkit.task import Flag, Outcome, Run, Task
from buildkit.values import is_loopback, parse_integer, parse_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildkit.server.keys import Keys
    from buildkit.server.listen import Address
    from buildkit.server.server import DataFolder, ServerOptions

_NEEDED = ("starlette", "uvicorn", "python_multipart")
_DAY_S = 86_400
_FIRST_KEY = "first"
# Of the flags that take a number.
_DEFAULTS = {
    "max_bytes": 4_000_000_000,
    "queue_timeout": 86_400,
    "build_timeout": 7200,
    "keep_days": 30,
    "keep_free": 2_000_000_000,
}
_parse_bytes, _parse_seconds, _parse_days = parse_integer(0, 10**15), parse_number(0, 10**8), parse_number(0, 10**5)


def main(this: Run) -> Outcome:
    """Run a Runtime API: prints its base URL and serves until it is stopped."""
    check_extra()
    from buildkit.server.server import DataFolder

    folder = DataFolder(this.locate(this.settings.serve_data))
    name = this.flags["new_key"]
    if name:
        return add_key(folder, name)
    address = read_address(this)
    options = read_options(this)
    with folder.opened(this.root):
        url = serve(folder, options, address, this)
    return Outcome("", {"url": url})


def serve(folder: DataFolder, options: ServerOptions, address: Address, this: Run) -> str:
    """Serve until a signal comes, and return the base URL that was served."""
    from buildkit.engines import list_engines
    from buildkit.server import listen
    from buildkit.server.app import create_app
    from buildkit.server.housekeeping import Housekeeping
    from buildkit.server.server import Server

    ui = this.ui
    bound = listen.bind(address)
    url = listen.format_url(bound, address)
    server = Server(folder.path, list_engines(this.settings.engine, this.settings.builder), options)
    housekeeping = Housekeeping(server, ui)

    def announce() -> None:
        ui.show(url)
        ui.report(f"serving with {', '.join(builder['name'] for builder in server.workers.describe())}")

    show_first_key(server.keys, url, this)
    server.start()
    housekeeping.start()
    try:
        listen.serve(server, create_app(server), bound, address, announce)
    finally:
        ui.report("stopping: running builds go back to the queue")
        housekeeping.stop()
        server.stop()
    return url


def show_first_key(keys: Keys, url: str, this: Run) -> None:
    """Create the first key, unless one exists, and show the two lines that a client needs."""
    if this.settings.runtime_api_key is None and not keys.list_names():
        this.ui.report("created a key, which is shown only now; for clients, put these lines into .env:")
        this.ui.offer(f"RUNTIME_API_URL={url}\nRUNTIME_API_KEY={keys.create(_FIRST_KEY)}")


def add_key(folder: DataFolder, name: str) -> Outcome:
    """Create another key, also while the server runs; it is shown once."""
    from buildkit.server.keys import Keys

    folder.check()
    if not folder.path.is_dir():
        raise SettingError(f"there is no server in {folder.path}", f"run {run('serve')} first, or set SERVE_DATA")
    key = Keys(folder.path / "keys", None).create(name)
    return Outcome(key, {"name": name, "key": key})


def check_extra() -> None:
    """Refuse to serve without the packages of the extra."""
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise SettingError(
            f"`serve` needs packages that are not installed: {', '.join(missing)}",
            "install the extra: `pip install 'runtime-build[serve]'`, or `uv run --extra serve …`",
        )


def read_address(this: Run) -> Address:
    """Return where to listen; beyond this machine only with TLS, or behind a proxy that has it."""
    from buildkit.server.listen import Address

    host, flags = this.settings.serve_host, this.flags
    certificate, key = (str(this.locate(flags[name])) if flags[name] else None for name in ("tls_cert", "tls_key"))
    if bool(certificate) != bool(key):
        raise SettingError("one of --tls-cert and --tls-key is missing", "give both, or neither")
    if not (certificate or flags["behind_proxy"] or is_loopback(host)):
        raise SettingError(
            f"SERVE_HOST={host} would send keys without TLS",
            "give --tls-cert and --tls-key, or --behind-proxy if a proxy adds TLS",
        )
    return Address(host, this.settings.serve_port, certificate, key, flags["behind_proxy"])


def read_options(this: Run) -> ServerOptions:
    """Return the server's options from settings and flags."""
    from buildkit.server.incoming import Limits
    from buildkit.server.server import ServerOptions

    settings = this.settings
    given = _DEFAULTS | {name: value for name, value in this.flags.items() if value is not None}
    max_bytes = given["max_bytes"]
    return ServerOptions(
        registry_prefix=settings.registry_prefix,
        queue_limit=settings.serve_queue,
        slots=settings.serve_workers,
        limits=Limits(max_bytes=max_bytes, max_unpacked_bytes=10 * max_bytes),
        queue_timeout_s=given["queue_timeout"],
        build_timeout_s=given["build_timeout"],
        keep_s=given["keep_days"] * _DAY_S,
        keep_free_bytes=given["keep_free"],
        network=this.flags["network"] or "",
        key=settings.runtime_api_key,
    )


def _number(name: str, meaning: str, parse: Callable[[str, str], float]) -> Flag:
    return Flag(name, f"{meaning}; {_DEFAULTS[name]} if not given", parse=parse)


TASK = Task(
    "serve",
    main,
    groups=("engine", "serve"),
    flags=(
        Flag("new_key", "create a key with this name, print it and exit", takes_value=True),
        Flag("tls_cert", "PEM file with the certificate", takes_value=True),
        Flag("tls_key", "PEM file with the certificate's key", takes_value=True),
        Flag("behind_proxy", "a proxy in front of the server adds TLS"),
        Flag("network", "network of the RUN steps, such as host", takes_value=True),
        _number("max_bytes", "size limit of a build context, compressed", _parse_bytes),
        _number("queue_timeout", "seconds a build may wait in the queue", _parse_seconds),
        _number("build_timeout", "seconds a build may take", _parse_seconds),
        _number("keep_days", "days for which builds that have ended are kept", _parse_days),
        _number("keep_free", "bytes of the disk to keep free", _parse_bytes),
    ),
)
