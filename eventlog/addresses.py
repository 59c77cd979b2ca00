"""Addresses: telling them from names; apart from tcp.py, because commands do without what this loads."""

import ipaddress


def is_address(host: str) -> bool:
    """Whether this is an address of IPv4 or IPv6, in brackets or not, and no name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
