"""Outside systems, one file each, named after it. Never imported by name: plugins.py resolves them on first use."""
