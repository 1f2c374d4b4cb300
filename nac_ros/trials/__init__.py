"""The trial kit: protocol, schedule, log, simulated and physical trials, report."""
