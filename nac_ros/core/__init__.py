"""Values, errors, configuration and operating-system services for all other folders; no torch."""
