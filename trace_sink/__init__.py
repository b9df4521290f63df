"""trace_sink: takes access logs over Envoy's gRPC ALS and keeps them in ClickHouse."""
