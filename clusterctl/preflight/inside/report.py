"""What an image is, asked from inside: versions, GPUs, limits, libraries. Prints one line of JSON.

One file, standard library only, run by the image's own python3 in a container with the serving container's flags
(preflight/image.py), which ends with it. Reads only, and creates no CUDA context. Arguments: the deadline in seconds,
the model's path, and `--deep` where modules are really to be imported (seconds to minutes); with it the file of
options that the server would be started with, where that is known, and those options that say where the model's
configuration is.

Older Pythons than clusterctl's own run it too, to be able to say that they are too old for the agent.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import re
import resource
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

CAP_IPC_LOCK = 14
"""Bit in CapEff (linux/capability.h)."""
SHOWN_ENVIRONMENT = re.compile(r"^(NCCL|VLLM|RAY|CUDA|TORCH|PYTORCH|GLOO|UCX|OMP|HF|ROCR|HIP|LD)_")
FLAG = re.compile(r'"(--[a-z][a-z0-9-]*[a-z0-9])"')
SECRET = re.compile(r"(TOKEN|SECRET|KEY|PASSW)")
NAME_SEPARATORS = re.compile(r"[-_.]+")
"""Runs that count as one dash in a distribution's name (PEP 503)."""


def distributions() -> dict[str, str]:
    """Name → version of everything that the interpreter finds; the first in sys.path wins, as in an import."""
    found: dict[str, str] = {}
    for each in importlib.metadata.distributions():
        name = each.metadata["Name"]
        if name:
            found.setdefault(NAME_SEPARATORS.sub("-", name).lower(), each.version)
    return dict(sorted(found.items()))


def version_of(module: str, installed: dict[str, str]) -> str | None:
    """Version of the distribution that is called like the module, if the module is there to be imported."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    return installed.get(module, "unknown") if spec is not None else None


def torch_cuda() -> str | None:
    """torch.version.cuda, read without importing torch (which takes seconds)."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        value = runpy.run_path(str(Path(spec.origin).with_name("version.py"))).get("cuda")
    except (OSError, SyntaxError, ImportError):
        return None
    return None if value is None else str(value)


def library(name: str) -> ctypes.CDLL | None:
    """The library as dlopen finds it, which is how NCCL looks for its own."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def nccl_version() -> str | None:
    """NCCL's own answer: VLLM_NCCL_SO_PATH where it is set, else the wheel that torch links, else the system's."""
    wheels = [
        each.locate_file("nvidia/nccl/lib/libnccl.so.2")
        for each in importlib.metadata.distributions()
        if (each.metadata["Name"] or "").lower().startswith("nvidia-nccl")
    ]
    for path in [os.environ.get("VLLM_NCCL_SO_PATH"), *wheels, "libnccl.so.2"]:
        loaded = library(str(path)) if path else None
        if loaded is not None:
            number = ctypes.c_int()
            loaded.ncclGetVersion(ctypes.byref(number))
            # NCCL_VERSION_CODE since 2.9 (nccl.h): major * 10000 + minor * 100 + patch.
            return f"{number.value // 10000}.{number.value // 100 % 100}.{number.value % 100}"
    return None


def cuda_driver() -> dict[str, Any]:
    """What libcuda says: the newest CUDA that the driver runs, and how many devices a process here would get.

    cuInit and cuDeviceGetCount create no context and honour CUDA_VISIBLE_DEVICES and MIG.
    """
    cuda = library("libcuda.so.1")
    if cuda is None:
        return {"driver_cuda": None, "cuda_error": None, "gpus": None}
    number, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(number))
    error = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    return {
        "driver_cuda": f"{number.value // 1000}.{number.value % 1000 // 10}" if number.value else None,
        "cuda_error": error or None,
        "gpus": None if error else count.value,
    }


def verbs() -> dict[str, Any]:
    """The RDMA libraries that NCCL opens at run time."""
    ibverbs, mlx5 = library("libibverbs.so.1"), library("libmlx5.so.1")
    mapped = re.findall(r"/(libmlx5\.so\S*)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    return {
        "libibverbs": ibverbs is not None,
        "libmlx5": mapped[0] if mapped else None,
        "mlx5_dmabuf": None if mlx5 is None else hasattr(mlx5, "mlx5dv_reg_dmabuf_mr"),
    }


def shm_bytes() -> int | None:
    """Size of /dev/shm in bytes."""
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108 (its size is what is asked)
    except OSError:
        return None
    return found.f_blocks * found.f_frsize


def ipc_lock() -> bool:
    """Whether this process holds CAP_IPC_LOCK."""
    effective = re.search(r"^CapEff:\s+([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) >> CAP_IPC_LOCK & 1)


def names_in(directory: str) -> list[str]:
    """Names in a directory; none where there is no such directory."""
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208 (names, not paths)
    except OSError:
        return []


def environment() -> dict[str, str]:
    """The settings of what runs here. Of what may be a secret only that it is set."""
    return {
        name: "(set)" if SECRET.search(name) else value
        for name, value in sorted(os.environ.items())
        if SHOWN_ENVIRONMENT.match(name)
    }


def broken_imports() -> dict[str, str]:
    """Module → error, of the two that must import."""
    broken = {}
    for module in ("ray", "vllm"):
        try:
            importlib.import_module(module)
        except BaseException as error:  # noqa: BLE001 (whatever an import raises is the answer)
            broken[module] = f"{type(error).__name__}: {error}"
    return broken


class NoConfiguration(Exception):
    """A GGUF file of whose model there is no config.json."""


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    return dict(json.loads(path.read_bytes()))


def architectures_of(
    model: Path, config_format: str = "auto", config_path: str | None = None, tokenizer: str | None = None
) -> list[str]:
    """What vLLM takes from the model's configuration; in Mistral's own format, what this vLLM makes of params.json.

    Which file counts: get_config in vLLM 0.32, transformers_utils/config.py, which is given `--hf-config-path` before
    the model. Raises NoConfiguration, and ValueError for a format that only a plugin of the server's knows.
    """
    if is_gguf(model):
        return gguf_architectures(model, config_path or tokenizer)
    home = Path(config_path or model)
    config, params = home / "config.json", home / "params.json"
    if config_format == "auto":
        own = params.is_file() and (list(home.glob("consolidated*.safetensors")) or not config.is_file())
        config_format = "mistral" if own else "hf"
    if config_format == "mistral":
        adapt = importlib.import_module("vllm.transformers_utils.configs.mistral").adapt_config_dict
        beside = read(config) if config.is_file() else {}
        return list(adapt(read(params), defaults=beside).architectures or [])
    if config_format != "hf":
        raise ValueError(f"config-format {config_format} is a plugin's, which only the server loads")
    return list(read(config).get("architectures") or [])


def is_gguf(model: Path) -> bool:
    """Whether the model is a GGUF file, or a directory with such files and no other weights."""
    if model.suffix == ".gguf":
        return True
    return any(model.glob("*.gguf")) and not any(any(model.glob(f"*.{kind}")) for kind in ("safetensors", "bin"))


def gguf_architectures(model: Path, named: str | None) -> list[str]:
    """The class for the model_type of config.json, whatever `architectures` says there.

    As vllm-gguf-plugin 0.0.5 does it (config_parser.py, plugin.py; before 0.24 vLLM itself did). The config.json is in
    the directory that the options name, else beside the file.
    """
    config = Path(named or (model.parent if model.suffix == ".gguf" else model)) / "config.json"
    if not config.is_file():
        raise NoConfiguration(f"the model is GGUF, and {config}, which names its type, is not in the container")
    kind = read(config).get("model_type")
    known = importlib.import_module("transformers.models.auto.modeling_auto").MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if kind not in known:
        raise ValueError(f"the model is GGUF, and transformers in the image has no text model of type {kind}")
    return [known[kind]]


def model_support(architectures: Callable[[], list[str]]) -> dict[str, Any]:
    """Whether vLLM knows the model's architecture and can split it into pipeline stages (vLLM 0.32, registry.py).

    The class is loaded here and not by way of ModelRegistry.is_pp_supported_model, which wants a whole configuration
    and imports everything again in a process of its own.
    """
    try:
        names = architectures()
        models = importlib.import_module("vllm.model_executor.models")
        interfaces = importlib.import_module("vllm.model_executor.models.interfaces")
        known = [name for name in names if name in models.ModelRegistry.get_supported_archs()]
        pipeline = [bool(interfaces.supports_pp(models.ModelRegistry.models[name].load_model_cls())) for name in known]
    except NoConfiguration as error:
        return {"error": str(error), "no_configuration": True}
    except BaseException as error:  # noqa: BLE001 (whatever vLLM raises is the answer)
        return {"error": f"{type(error).__name__}: {error}"}
    return {"architectures": names, "supported": bool(known), "pipeline_parallel": any(pipeline)}


def serve_flags() -> list[str] | None:
    """Flags of `vllm serve`, read as text in the files that declare them: importing vLLM takes half a minute.

    None where there is no vLLM, or one that declares them elsewhere (0.32 does so here).
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent
    sources = [
        home / "engine/arg_utils.py",
        *home.glob("entrypoints/**/cli_args.py"),
        home / "entrypoints/cli/serve.py",
    ]
    texts = [source.read_text(encoding="utf-8") for source in sources if source.is_file()]
    return sorted({flag for text in texts for flag in FLAG.findall(text)}) or None


def refused_options(path: str) -> str | None:
    """What vLLM's own checks say against the options in this file, in its words; None: nothing.

    As `vllm serve` begins (vLLM 0.32, entrypoints/cli/serve.py): no port is opened, no weight is read.
    """
    parsing = io.StringIO()
    try:
        command = importlib.import_module("vllm.entrypoints.cli.serve").ServeSubcommand()
        parser = flexible_parser()()
        command.subparser_init(parser.add_subparsers(dest="subparser"))
        with contextlib.redirect_stderr(parsing):
            arguments = parser.parse_args(["serve", "--config", path])
            command.validate(arguments)
        # As the command itself does with what stands in the file under `model`.
        arguments.model = getattr(arguments, "model_tag", None) or arguments.model
        engine = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs.from_cli_args(arguments)
        engine.create_engine_config(headless=bool(getattr(arguments, "headless", False)))
    except SystemExit:
        words = (parsing.getvalue().strip().splitlines() or ["it refuses the options"])[-1]
        return words.rpartition("error: ")[2]
    except Exception as error:  # noqa: BLE001 (whatever vLLM raises is the answer)
        # pydantic's errors hold what vLLM said, without the configuration that is printed after it.
        found = error.errors() if hasattr(error, "errors") else []
        said = [str(each["msg"]).removeprefix("Value error, ") for each in found]
        return "; ".join(said) or f"{type(error).__name__}: {error}"
    return None


def flexible_parser() -> Any:
    """vLLM's parser, which is in vllm.utils in older ones."""
    try:
        return importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser
    except ImportError:
        return importlib.import_module("vllm.utils").FlexibleArgumentParser


def report(asked: argparse.Namespace) -> dict[str, Any]:
    """Everything."""
    installed = distributions()
    where = partial(architectures_of, asked.model, asked.config_format, asked.hf_config_path, asked.tokenizer)
    listed = "\n".join(f"{name}=={version}" for name, version in installed.items())
    return {
        "python": platform.python_version(),
        "glibc": platform.libc_ver()[1] or None,
        **{module: version_of(module, installed) for module in ("ray", "vllm", "torch", "transformers")},
        "cuda": torch_cuda(),
        "nccl": nccl_version(),
        **cuda_driver(),
        **verbs(),
        "shm_bytes": shm_bytes(),
        "memlock_bytes": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        "ipc_lock": ipc_lock(),
        "infiniband": names_in("/dev/infiniband"),
        "environment": environment(),
        "distributions": installed,
        "digest": hashlib.sha256(listed.encode()).hexdigest(),
        "broken_imports": broken_imports() if asked.deep else {},
        "model_support": model_support(where) if asked.deep else None,
        "serve_flags": serve_flags(),
        "refused_options": refused_options(asked.options) if asked.deep and asked.options else None,
    }


def arguments() -> argparse.Namespace:
    """What is asked. The options are called as those of `vllm serve`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("deadline_s", type=float)
    parser.add_argument("model", type=Path)
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--options")
    parser.add_argument("--config-format", default="auto")
    parser.add_argument("--hf-config-path")
    parser.add_argument("--tokenizer")
    return parser.parse_args()


def main() -> None:
    """Report, or end at the deadline whatever hangs: nobody else may be left to end this process."""
    asked = arguments()
    faulthandler.dump_traceback_later(asked.deadline_s, exit=True)
    print(json.dumps(report(asked)))


if __name__ == "__main__":
    main()
