import sys

from setuptools import find_packages, setup

if sys.version_info < (3, 6):
    raise RuntimeError("Python 3.6 or later is required")

with open("README.rst") as file:
    README = file.read()

setup(
    name="Tiny.Service",
    version="1.0",
    long_description=README,
    packages=find_packages(),
    python_requires=">=3.6",
    install_requires=[],
    entry_points={"console_scripts": ["tinyd = tiny_service.daemon:main", "tinyctl = tiny_service.control:main"]},
)
