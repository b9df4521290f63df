"""The built-in steps of the decision, in their default order: see `authz_service.pipeline`."""
