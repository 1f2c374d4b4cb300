"""Public interface to all policies."""

from nac_ros.policies.base import POLICIES, Policy

__all__ = ["POLICIES", "Policy", "list_policies"]


def list_policies() -> list[str]:
    """Names that `nac policy train --policy` knows."""
    return POLICIES.names()
