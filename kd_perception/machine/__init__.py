"""Facts about the machine: host, cores, energy."""
