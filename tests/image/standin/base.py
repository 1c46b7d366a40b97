"""What repo2docker's own environment begins with, from its lock of conda-forge's packages, by the names and versions of pip."""

import re
import sys

NAMES = {"brotli-python": "brotli", "python-fastjsonschema": "fastjsonschema", "jupyterhub-base": "jupyterhub", "nbconvert-core": "nbconvert"}  # the name of pip, by the name there
PARTS = ("bleach-with-css", "jsonschema-with-format-nongpl")  # of packages that pip has whole


def pins_of(lock: str) -> dict[str, str]:
    """Return version by name of what is of Python in the lock: its build says so, such as `pyhd8ed1ab_0`."""
    found = re.findall(r"^https://\S+/([^/\s]+)-([^-/\s]+)-py[^-/\s]*\.(?:conda|tar\.bz2)\b", lock, re.MULTILINE)
    return {NAMES.get(name, name).replace("_", "-"): version for name, version in found if name not in PARTS}


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in pins_of(sys.stdin.read()).items()))
