"""Puts the recipes and the zoo's index into an installed package; everything else stands in setup.cfg.

They lie at the top of the repository, where readers look for them. A wheel carries them as ``detkit/configs`` and
``detkit/zoo/model_zoo.json``; an editable install uses the ones at the top.
"""
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithRecipes(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib, 'detkit')
        shutil.copytree(ROOT / 'configs', package / 'configs', dirs_exist_ok=True, ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy2(ROOT / 'model_zoo.json', package / 'zoo' / 'model_zoo.json')


setup(cmdclass={'build_py': BuildWithRecipes})
