"""Maps the top-level source folders to sub-packages of `bmrl`; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

SOURCE_FOLDERS = ("pipeline", "model", "cli", "manifests")

packages = [f"bmrl.{name}" for folder in SOURCE_FOLDERS for name in find_packages(include=[folder, f"{folder}.*"])]

setup(
    packages=packages,
    package_dir={f"bmrl.{folder}": folder for folder in SOURCE_FOLDERS},
)
