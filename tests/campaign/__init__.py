"""A campaign of faults: damaged input, killed processes, full disks. `make campaign` runs it; docs/reliability.md."""
