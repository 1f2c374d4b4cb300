"""Demonstrations of scripted experts in the twin, alone (generate) or after a policy (DAgger)."""
