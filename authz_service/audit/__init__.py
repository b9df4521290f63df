"""The audit: sealed records, signed anchors, and the proof that nothing was changed."""
