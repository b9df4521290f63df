"""Says yes or no to each MCP message: external authorization (ext_authz v3) for Envoy, with Casbin and a journal."""
