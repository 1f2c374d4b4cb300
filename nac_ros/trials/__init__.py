"""The trial kit: protocol, plan, log, unattended runs on the twin, statistics and the report."""
