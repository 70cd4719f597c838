"""Ray clusters: start, join, autoscale, check nodes, submit jobs, record provenance."""
