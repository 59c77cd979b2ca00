"""Addresses are told from names."""

import pytest

from eventlog.addresses import is_address


@pytest.mark.parametrize(
    ("host", "address"),
    [
        *[(host, True) for host in ("127.0.0.1", "::1", "[::1]")],
        *[(host, False) for host in ("localhost", "10.0.0", "1.2.3.4.5", "a::g", "")],
    ],
)
def test_addresses_and_names(host: str, address: bool) -> None:
    assert is_address(host) is address
