"""A Ray to run on: one of our own, which nobody else can reach, or a cluster that is joined."""

from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from .options import RunSettings
from .ray_folder import ray_folder
from .report import BuildError, one_line

CONNECT_S = 5.0  # to wait for a cluster's port
TOKEN_HELP = (
    "the cluster asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it"
)
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # every error is raised here, once
    # Else ray.init waits for workers of its own accord, and for ever when one of them is killed before it has registered.
    "RAY_prestart_worker_first_driver": "0",
}


@contextmanager
def ray_session(run: RunSettings) -> Iterator[Any]:
    """A Ray of our own, or the cluster at `ray_address`; shut down on the way out. Raises BuildError."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import logging

    import ray

    local = run.ray_address is None
    with ExitStack() as stack:
        own: dict[str, Any] = {}
        if run.ray_address is None:
            stack.enter_context(_for_this_process_alone())
            own = {
                "num_cpus": os.cpu_count() if run.workers is None else run.workers,
                "object_store_memory": 100 * 2**20,  # tasks pass paths and rows, never images
                "include_dashboard": False,
                "_temp_dir": str(stack.enter_context(ray_folder())),
            }
        else:
            _check_cluster(run.ray_address)
        try:
            with _own_sigterm():
                ray.init(
                    address="local" if local else run.ray_address,
                    configure_logging=True,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    **own,
                )
        except Exception as error:  # Ray raises plain ones too, as when its node dies while it starts
            raise BuildError(f"Ray cannot be started or reached: {one_line(error)}") from error
        stack.callback(ray.shutdown)
        yield ray


@contextmanager
def _for_this_process_alone() -> Iterator[None]:
    """A head that we start listens on loopback, and asks for a token that its own processes alone have.

    Ray binds to the address of the node, and takes loopback for it where clusters are off, as they are by default on Windows
    and macOS; `_node_ip_address` is replaced. Without a token of ours it writes one below the user's home.
    """
    from ray._private import ray_constants

    names = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        names["RAY_AUTH_TOKEN"] = _token()
    before = {name: os.environ.get(name) for name in (*names, "RAY_AUTH_MODE")}
    clusters = getattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    os.environ.update(names)
    ray_constants.ENABLE_RAY_CLUSTER = False  # ray may have been imported before
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_tokens: list[str] = []  # one a process: Ray reads it once


def _token() -> str:
    if not _tokens:
        _tokens.append(secrets.token_hex(32))
    return _tokens[0]


def _check_cluster(address: str) -> None:
    """Raises BuildError where nobody listens, or where the token is wrong or missing: ray.init tries for 20 to 40 seconds and
    does not say why, and a missing token ends the process within its C++ code."""
    host, _, port = address.rpartition(":")
    if "://" in address or not (host and port.isdecimal()):
        return  # `auto`, or an address of Ray's own kind
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise BuildError(f"no Ray cluster can be reached at {address}: {one_line(error)}") from None
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "token" and not _has_token():
        raise BuildError(f"RAY_AUTH_MODE is token, and there is no token for {address}; {TOKEN_HELP}")
    with suppress(ImportError):  # an older Ray has no tokens
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.exceptions import AuthenticationError, RayError

        try:
            GcsClient(address=address)
        except AuthenticationError:
            raise BuildError(f"the token for the Ray cluster at {address} is missing or wrong; {TOKEN_HELP}") from None
        except RayError as error:
            raise BuildError(f"no Ray cluster answers at {address}: {one_line(error)}") from None


def _has_token() -> bool:
    try:
        from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
    except ImportError:  # an older Ray
        return True
    try:
        return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    except Exception:  # a path of a token that cannot be read
        return False


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Around ray.init, which takes SIGTERM over: one that comes meanwhile is delivered to the handler from before.

    Ray's handler raises SystemExit, and an exception from a handler is lost where Python can only print it, as in what
    runs after a fork: the wakeup descriptor, which the interpreter itself writes to, loses none.
    """
    if threading.current_thread() is not threading.main_thread():  # Ray leaves it alone there
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    heard, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    previous = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    try:
        yield
        signal.signal(signal.SIGTERM, handler)  # runs what is pending first, still with Ray's handler
    except SystemExit:  # what Ray's handler does
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.set_wakeup_fd(previous)
        os.close(wakeup)
        numbers = os.read(heard, 1024) if select.select([heard], [], [], 0)[0] else b""
        os.close(heard)
        if signal.SIGTERM in numbers:
            signal.raise_signal(signal.SIGTERM)
