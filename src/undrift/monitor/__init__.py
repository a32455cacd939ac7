"""Monitor: drift, performance, silent failure and their causes, within a stated budget of false alarms."""
