"""State behind ports: the journal of events (SQL), the lake of columns (Delta), the store of artifacts (files)."""
