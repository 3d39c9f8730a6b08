"""Everything about a run that is not the method: optimizer, steps, devices."""
