"""The classes of the project's first announcement, as a thin layer over the same parts that the sidecar is made of."""
