"""What the bridge holds servers and callers to: tools pinned by a lock file, arguments and results by schema."""
