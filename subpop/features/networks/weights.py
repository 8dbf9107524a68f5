"""Locates, downloads and checks the weights of a network.

A file is looked for as NAME.safetensors and under its publisher's name, first in the weights root, then (for ImageNet) in
torch's download folder. Missing ImageNet weights are downloaded into the weights root, or into torch's folder if none is given.
Pickles are not trusted: safetensors, or torch.load with `weights_only=True`.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from torch import nn

from subpop.datasets.download import MissingData
from subpop.types import BadInput

State = Mapping[str, torch.Tensor]
SHOWN = 4
COUNTER = "num_batches_tracked"
"""Counts training batches and is not used in eval mode; older published files do not have it."""


@dataclass(frozen=True)
class WeightsFile:
    """A published file of weights. download: fetched when it is missing; its name then ends in its sha256's first digits."""

    network: str
    url: str
    download: bool

    @property
    def published(self) -> str:
        """The file's own name."""
        return self.url.rpartition("/")[2]


CIFAR_URL = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"
TORCHVISION_URL = "https://download.pytorch.org/models/"
WEIGHTS: dict[str, WeightsFile] = {
    # ResNet-50: the first of torchvision's two sets (IMAGENET1K_V1), trained by the plain recipe of the paper's time.
    "vgg16": WeightsFile("vgg16", f"{TORCHVISION_URL}vgg16-397923af.pth", download=True),
    "resnet50": WeightsFile("resnet50", f"{TORCHVISION_URL}resnet50-0676ba61.pth", download=True),
    "inception_v3": WeightsFile("inception_v3", f"{TORCHVISION_URL}inception_v3_google-0cc3c7bd.pth", download=True),
    "resnet20_cifar10": WeightsFile("resnet20_cifar10", f"{CIFAR_URL}resnet20-12fca82f.th", download=False),
    "resnet56_cifar10": WeightsFile("resnet56_cifar10", f"{CIFAR_URL}resnet56-4bfd9763.th", download=False),
}


# --- the file ---------------------------------------------------------------------------------------------------------


def weights_path(name: str, weights_root: Path | None = None) -> Path:
    """Return the file of a network's weights, downloaded if necessary; raises MissingData if it is not available."""
    if name not in WEIGHTS:
        raise BadInput(f"no weights are known for {name!r}; known: {', '.join(WEIGHTS)}")
    file = WEIGHTS[name]
    downloads = Path(torch.hub.get_dir()) / "checkpoints"
    folders = [*([weights_root] if weights_root else []), *([downloads] if file.download else [])]
    for folder in folders:
        for candidate in (folder / f"{name}.safetensors", folder / file.published):
            if candidate.is_file():
                return candidate
    if not file.download:
        raise MissingData(_how_to_get(file, weights_root))
    return _download(file, weights_root or downloads, weights_root)


def _how_to_get(file: WeightsFile, weights_root: Path | None) -> str:
    where = weights_root or "the folder that weights_root names (by default DATA_ROOT/weights)"
    return (
        f"no weights for {file.network}: neither {file.network}.safetensors nor {file.published} is in {where}; "
        f"download {file.url} into it"
    )


def _download(file: WeightsFile, folder: Path, weights_root: Path | None) -> Path:
    sha256 = re.search(r"-([0-9a-f]{8,})\.", file.published)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Written under a temporary name and moved once its hash agrees: no partial file is left behind.
        torch.hub.download_url_to_file(
            file.url, str(folder / file.published), hash_prefix=sha256 and sha256[1], progress=sys.stderr.isatty()
        )
    except (OSError, HTTPException, RuntimeError) as error:
        raise MissingData(f"{_how_to_get(file, weights_root)} (the attempt to download it failed: {error})") from None
    return folder / file.published


def weights_fingerprint(path: Path) -> str:
    """Hash of the bytes of a file; read once a process as long as its size and time of change stay."""
    status = path.stat()
    return _fingerprint(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _fingerprint(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()


# --- its content ------------------------------------------------------------------------------------------------------


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name. A training checkpoint ({"state_dict": ...}, names with `module.` before them) is unwrapped."""
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes lead the readers to any error: KeyError, AssertionError, struct.error, ...
        first = str(error).strip().partition("\n")[0]
        raise BadInput(f"{path} contains no weights that can be read safely ({first}); fetch the published file again") from error
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BadInput(f"{path} is not a state dict (tensors by name); fetch the published file again")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load_into(module: nn.Module, state: State, network: str, path: Path, others: Collection[str] = ()) -> None:
    """Copy weights into a module, name by name; network, path: for messages.

    others: additional names that the file may contain, such as a head that is not used. Missing or unexpected names and other
    shapes raise BadInput, which lists them; the module is then unchanged.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith(COUNTER)]
    unexpected = [name for name in state if name not in wanted and name not in others]
    misshaped = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    if any(problems.values()):
        found = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise BadInput(f"the weights in {path} do not fit {network}: {found}; use the file made for this network")
    counters = {name: torch.zeros((), dtype=torch.int64) for name in wanted if name.endswith(COUNTER)}
    module.load_state_dict({**counters, **{name: state[name] for name in wanted if name in state}})


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# --- none -------------------------------------------------------------------------------------------------------------


def initialise(module: nn.Module, seed: int) -> None:
    """Random weights for a network without published ones: He et al. 2015 by fan-out, norms at one, biases at zero."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.reset_parameters()
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            fan_out = layer.weight.shape[0] * math.prod(layer.weight.shape[2:])
            with torch.no_grad():
                layer.weight.normal_(0, math.sqrt(2 / fan_out), generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()
