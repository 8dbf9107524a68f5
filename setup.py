"""Copies the suites and their baselines into the wheel, so that an installed package can run them: `subpop run`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class WithSuites(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            data = Path(self.build_lib) / "subpop" / "data"
            for name in ("benchmarks", "baselines"):
                unwanted = shutil.ignore_patterns("__pycache__", "*.pyc")
                shutil.copytree(HERE / name, data / name, ignore=unwanted, dirs_exist_ok=True)


setup(cmdclass={"build_py": WithSuites})
