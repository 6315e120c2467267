"""`import marketd`: cheap, and every public name is there."""

import subprocess
import sys

import pytest

import marketd


def test_every_public_name_can_be_had_and_is_listed() -> None:
    for name in marketd.__all__:
        assert getattr(marketd, name) is not None and name in dir(marketd)
    assert set(marketd._HOME) | {"__version__"} == set(marketd.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Provider'"):
        marketd.Provider  # noqa: B018


def test_importing_marketd_imports_nothing_else() -> None:
    code = (
        "import sys, marketd; assert not {'numpy', 'zmq', 'msgspec', 'pandas'} & set(sys.modules); "
        "marketd.UnifiedDataProvider; assert 'zmq' in sys.modules; "
        "assert not {'pandas', 'pyarrow', 'asyncpg'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
