"""Demonstrations made in the twin by scripted experts, alone (generate) or after a policy (DAgger)."""
