"""The guard of the tests' secrets."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

PROGRAM = """
import subprocess, sys
import pytest
from tests.support.secrets import SecretGuard, secret

KEY = secret("a-key-that-nobody-may-see")

def test_quiet():
    print("nothing")

def test_printed():
    print(f"the key is {KEY}")

def test_logged():
    import logging
    logging.getLogger("x").warning("the key is %s", KEY)

def test_read_from_a_process():
    subprocess.run([sys.executable, "-c", f"print({KEY!r})"], capture_output=True, check=True)
"""
CONFTEST = """
from tests.support.secrets import SecretGuard

def pytest_configure(config):
    config.pluginmanager.register(SecretGuard(), "secrets")
"""


@pytest.mark.process
def test_a_test_whose_output_holds_a_secret_fails(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(PROGRAM)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncio")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["*an output holds a secret of the tests:*"])
