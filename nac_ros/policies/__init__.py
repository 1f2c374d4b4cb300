"""Learned policies; new ones register in `base.POLICIES`."""

from nac_ros.policies.base import POLICIES, Policy

__all__ = ["POLICIES", "Policy", "list_policies"]


def list_policies() -> list[str]:
    """Names of the policies, as `nac policy train --policy` takes them."""
    return POLICIES.names()
