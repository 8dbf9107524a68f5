"""In a process of its own: what torchvision registers cannot be undone."""

import subprocess
import sys


def test_torchvision_imports_beside_any_torch():
    code = (
        "from subpop._torchvision import import_torchvision\n"
        "tv = import_torchvision()\n"
        "import torch, torchvision.models, torchvision.transforms, torchvision.datasets\n"
        "assert tv is import_torchvision()\n"
        "assert torchvision.models.resnet18(weights=None).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
