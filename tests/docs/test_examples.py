"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ("provenance", "verifier", "pipeline")


def module_names() -> list[str]:
    names = ["rvp"]
    for package in PACKAGES:
        found = importlib.import_module(package)
        names += [one.name for one in pkgutil.walk_packages(found.__path__, f"{package}.")]
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_the_examples_of_a_package_are_right(package: str) -> None:
    tried = 0
    said: list[str] = []
    for name in module_names():
        if name.split(".")[0] != package:
            continue
        for test in doctest.DocTestFinder().find(importlib.import_module(name)):
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
            runner.run(test, out=said.append)
            tried += len(test.examples)
    assert said == []
    assert tried > 0
