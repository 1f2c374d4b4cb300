"""Values, errors, configuration and small operating-system services for every other folder; numpy, no torch."""
