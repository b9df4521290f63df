"""What of each message is written down, and how it is followed: sanitizing, sealing, lineage, traces, token counts."""
