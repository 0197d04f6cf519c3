"""The embedded Triton: the tritonserver of the wheel `nvidia-pytriton`, on the models of the fleet file.

The wheel holds a whole server, but laid out for its own Python package. What has to be put together is said beside each
step; all of it was found by trial on Debian 12 (docs/decisions/0004).
"""

import hashlib
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from gateway.embedded.disk import cannot_write
from gateway.embedded.ports import triton_ports
from gateway.embedded.probe import http_ok
from gateway.embedded.problem import StartError
from gateway.embedded.service import Service
from gateway.embedded.triton_health import Look, dead_stub
from gateway.embedded.triton_log import decisive_line, stub_complaint
from gateway.fleet.file import Endpoint, Fleet

EXIT_TIMEOUT_S = 3
KEEPALIVE_MS, PING_MS = 30_000, 10_000
"""How often the server asks whether a client is still there, and how often it may be asked."""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBPYTHON = f"libpython{PYTHON}.so.1.0"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the server's python backend puts it, whatever we say
LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib", "/lib/x86_64-linux-gnu")


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the pieces of the server are on this machine."""

    package: Path
    """Folder of `pytriton/tritonserver`."""
    libraries: Path
    """Folder `nvidia_pytriton.libs`: the server's shared libraries."""
    libpython: Path
    """The shared library that the python backend's stub is linked with."""

    @property
    def server(self) -> Path:
        return self.package / "bin" / "tritonserver"

    @property
    def stub(self) -> Path:
        return self.package / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"


def triton_service(fleet: Fleet, endpoint: Endpoint, data_dir: Path) -> Service:
    """How to run the server for one embedded endpoint. Raises StartError when a part is missing."""
    parts = find_parts()
    folder = data_dir.resolve() / "triton"
    try:
        assemble(parts, folder, _models(fleet, endpoint))
    except OSError as problem:
        raise StartError(f"Triton's folder cannot be put together. {cannot_write(folder, problem)}") from problem
    models = _models(fleet, endpoint)
    askable = [name for name, _ in models if name in _with_vllm_tensors(fleet)]
    prefix = shared_memory_prefix(folder)
    return Service(
        name="Triton",
        command=(str(parts.server), *_options(endpoint, folder, prefix)),
        environment=_environment(parts, folder),
        log=data_dir.resolve() / "log" / "triton.log",
        ready=partial(_ready, endpoint),
        ready_within_s=60,
        stop_within_s=EXIT_TIMEOUT_S + 3,
        clear=lambda: clear_shared_memory(prefix),
        ports=triton_ports(endpoint),
        illness=lambda pid, log: dead_stub(pid, len(models)) or stub_complaint(log.new_text()),
        look=Look(endpoint, askable),
        decisive=decisive_line,
    )


async def _ready(endpoint: Endpoint) -> bool:
    """The server opens its port for metrics last: who reads those when health is green would find it closed."""
    if not await http_ok(*endpoint.address, "/v2/health/ready"):
        return False
    if endpoint.metrics is None:
        return True
    metrics = urlsplit(endpoint.metrics)
    return await http_ok(metrics.hostname or "", metrics.port or 80, metrics.path)


def find_parts() -> Parts:
    """Raises StartError with the sentence that says what to install."""
    found = importlib.util.find_spec("pytriton")  # looked up, not imported: it starts threads and takes a second
    if found is None or found.origin is None:
        raise StartError(
            "The embedded Triton (nvidia-pytriton) is not installed: run scripts/up, or install Catflap with its extra "
            "`embedded`, or name a Triton of your own in the fleet file (CATFLAP_FLEET)."
        )
    package = Path(found.origin).parent
    parts = Parts(package / "tritonserver", package.parent / "nvidia_pytriton.libs", find_libpython())
    for part in (parts.server, parts.stub, parts.libraries):
        if not part.exists():
            raise StartError(f"The installed nvidia-pytriton lacks {part}: run scripts/up again, or install 0.7.0.")
    return parts


def find_libpython() -> Path:
    """The library of this Python, or else of the system's same version. Raises StartError when there is none."""
    folders = (
        *filter(None, (sysconfig.get_config_var("LIBDIR"),)),
        f"{sys.base_prefix}/lib",
        *filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")),
        *LIBRARY_FOLDERS,
    )
    for folder in folders:
        if (library := Path(folder) / LIBPYTHON).exists():
            return library
    raise StartError(
        f"Triton's python backend needs {LIBPYTHON}, which this machine lacks: "
        f"install Debian's package libpython{PYTHON} (apt install libpython{PYTHON})."
    )


def assemble(parts: Parts, folder: Path, models: Iterable[tuple[str, Path]]) -> None:
    """Lay out `backends/python`, `lib` and `models` in `folder`, anew at each start. Raises OSError."""
    shutil.rmtree(folder, ignore_errors=True)
    # The stub has to lie beside the backend, and the backend in a folder of its name.
    backend = folder / "backends" / "python"
    shutil.copytree(parts.package / "backends" / "python", backend, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(parts.stub, backend)
    # One link instead of the library's folder on the search path: that folder may hold other versions of everything.
    (folder / "lib").mkdir()
    (folder / "lib" / LIBPYTHON).symlink_to(parts.libpython)
    # Triton serves every folder of its repository: it gets one that holds the fleet's models and no others.
    (folder / "models").mkdir()
    for name, source in models:
        (folder / "models" / name).symlink_to(source.resolve())


def shared_memory_prefix(folder: Path) -> str:
    """The beginning of the names of this data directory's shared memory regions."""
    return f"catflap_{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}_"


def clear_shared_memory(prefix: str) -> None:
    """Remove what a server left that was killed together with its stub: 1 MiB or more a time."""
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def _models(fleet: Fleet, endpoint: Endpoint) -> list[tuple[str, Path]]:
    names = {model.triton.name for model in fleet.served if endpoint.name in model.endpoints}
    return [(name, fleet.path(name)) for name in sorted(names)]


def _with_vllm_tensors(fleet: Fleet) -> set[str]:
    return {model.triton.name for model in fleet.models if model.adapter == "vllm"}


def _options(endpoint: Endpoint, folder: Path, prefix: str) -> tuple[str, ...]:
    host, port = endpoint.address
    options = [
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        "--model-control-mode=none",
        # Completing a configuration starts the stub once more, which takes a second and a half; ours are complete.
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--http-address={host}",
        f"--http-port={port}",
        *_grpc_options(endpoint),
    ]
    if endpoint.metrics is None:
        return (*options, "--allow-metrics=false")
    parts = urlsplit(endpoint.metrics)
    return (*options, f"--metrics-address={parts.hostname}", f"--metrics-port={parts.port or 80}")


def _grpc_options(endpoint: Endpoint) -> tuple[str, ...]:
    if endpoint.grpc_address is None:
        return ("--allow-grpc=false",)
    host, port = endpoint.grpc_address
    # By default the server takes a client's pings in a long prefill for an attack, and hangs up on the third.
    keepalive = (f"--grpc-keepalive-time={KEEPALIVE_MS}", f"--grpc-http2-min-recv-ping-interval-without-data={PING_MS}")
    return (f"--grpc-address={host}", f"--grpc-port={port}", *keepalive)


def _environment(parts: Parts, folder: Path) -> dict[str, str]:
    """Only what it needs: the pepper, for one, is none of Triton's business."""
    # The stub embeds the first python3 on PATH, and has to find numpy (< 2) there.
    here = Path(sys.executable).parent
    return {
        "PATH": f"{here}:{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": f"{parts.libraries}:{folder / 'lib'}",
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        # The demo model's matrices are small: a second BLAS thread costs more in waiting than it computes, most of all
        # on a machine with other work (docs/demo-model.md has the measurement).
        "OPENBLAS_NUM_THREADS": "1",
    }
