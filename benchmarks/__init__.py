"""`make bench`: measurements side by side in one run. Quote the ratios; absolute figures move with the machine."""
