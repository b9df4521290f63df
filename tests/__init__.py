"""Tests, and tools that they and CI use. A package of its own: others ship one of this name, too."""
