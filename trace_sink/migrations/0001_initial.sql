-- One row per request that reached an Envoy's HTTP filters, from Envoy's access log.
CREATE TABLE IF NOT EXISTS requests
(
    ts DateTime64(6, 'UTC') COMMENT 'Start of the request' CODEC(Delta, ZSTD(1)),
    node LowCardinality(String) COMMENT 'Envoy that served it',
    request_id String COMMENT 'x-request-id, the same in all three logs',
    trace_id String COMMENT 'Trace id of the traceparent header, empty without one',
    session_id String COMMENT 'MCP session of the handshake era, empty otherwise',
    identity LowCardinality(String) COMMENT 'Authenticated workload: its SPIFFE path, or the whole SPIFFE ID outside the first trust domain',
    spiffe_id LowCardinality(String) COMMENT 'URI SAN of the verified client certificate',
    user LowCardinality(String) COMMENT 'Subject of the bearer token, empty without one',
    roles Array(LowCardinality(String)) COMMENT 'Roles that the decision saw',
    server LowCardinality(String) COMMENT 'Upstream MCP server, empty where none was asked',
    rpc LowCardinality(String) COMMENT 'gRPC path',
    method LowCardinality(String) COMMENT 'MCP method, empty where authorization did not read it',
    tool String COMMENT 'params.name or params.uri: tool, prompt or resource',
    outcome LowCardinality(String) COMMENT 'allowed, denied, limited, cancelled, unavailable, error',
    decision LowCardinality(String) COMMENT 'allow or deny; empty where no decision was made',
    reason LowCardinality(String) COMMENT 'Code of the decision',
    rule LowCardinality(String) COMMENT 'Policy rule that matched',
    policy_version LowCardinality(String) COMMENT 'Hash of model and policy',
    chain LowCardinality(String) COMMENT 'Decision journal',
    seq UInt64 COMMENT 'Sequence number in the journal, 0 without a decision' CODEC(Delta, ZSTD(1)),
    grpc_status Int16 COMMENT 'gRPC status code, -1 where none was sent',
    http_status UInt16,
    flags LowCardinality(String) COMMENT 'Envoy response flags, comma-separated',
    details LowCardinality(String) COMMENT 'Envoy response code details',
    duration_us UInt64 COMMENT 'First byte received to last byte sent' CODEC(T64, ZSTD(1)),
    upstream_us UInt64 COMMENT 'First byte sent to the bridge to its last byte' CODEC(T64, ZSTD(1)),
    request_bytes UInt64 COMMENT 'Request body' CODEC(T64, ZSTD(1)),
    response_bytes UInt64 COMMENT 'Response body' CODEC(T64, ZSTD(1)),
    peer_address String COMMENT 'Client address and port',
    peer_fingerprint String COMMENT 'SHA-256 of the client certificate, hex',
    peer_serial String COMMENT 'Serial number of the client certificate, hex',
    tls_version LowCardinality(String),
    batch_id UUID COMMENT 'Batch of the sink that wrote the row',
    inserted_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When the row became visible'
)
ENGINE = MergeTree
PARTITION BY toDate(ts)
ORDER BY ts;

-- One row per decision of authz_service: its journal.
CREATE TABLE IF NOT EXISTS decisions
(
    ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    chain LowCardinality(String),
    seq UInt64 CODEC(Delta, ZSTD(1)),
    kind LowCardinality(String) COMMENT 'decision, start or policy',
    identity LowCardinality(String),
    spiffe_id LowCardinality(String),
    user LowCardinality(String),
    roles Array(LowCardinality(String)),
    method LowCardinality(String),
    tool String,
    decision LowCardinality(String),
    reason LowCardinality(String),
    rule LowCardinality(String),
    policy_version LowCardinality(String),
    args_digest String,
    request_id String,
    session_id String,
    peer_fingerprint String,
    prev String COMMENT 'Hash of the previous record, hex',
    hash String COMMENT 'Hash of this record, hex',
    record String COMMENT 'The journal line, byte for byte' CODEC(ZSTD(3)),
    batch_id UUID,
    inserted_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = MergeTree
PARTITION BY toDate(ts)
ORDER BY (chain, seq);

-- One row per MCP message that mcp_bridge executed or refused to execute.
CREATE TABLE IF NOT EXISTS interactions
(
    ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    node LowCardinality(String) COMMENT 'Bridge that executed it',
    request_id String,
    chain LowCardinality(String),
    seq UInt64 CODEC(Delta, ZSTD(1)),
    identity LowCardinality(String),
    user LowCardinality(String),
    server LowCardinality(String),
    rpc LowCardinality(String),
    method LowCardinality(String),
    tool String,
    session_id String,
    protocol_version LowCardinality(String),
    outcome LowCardinality(String) COMMENT 'ok, tool_error, mcp_error, refused, cancelled, failed',
    error_code Int32,
    upstream_us UInt64 CODEC(T64, ZSTD(1)),
    request_bytes UInt64 CODEC(T64, ZSTD(1)),
    response_bytes UInt64 CODEC(T64, ZSTD(1)),
    notifications UInt32 CODEC(T64, ZSTD(1)),
    arguments String COMMENT 'Sanitized JSON' CODEC(ZSTD(3)),
    batch_id UUID,
    inserted_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = MergeTree
PARTITION BY toDate(ts)
ORDER BY ts;

-- One row per connection that ended before it carried a request: failed TLS handshakes.
CREATE TABLE IF NOT EXISTS handshakes
(
    ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    node LowCardinality(String),
    peer_address String,
    failure String COMMENT 'Why the handshake failed, in the words of Envoy',
    claimed_id String COMMENT 'URI SAN that the client showed: a claim, not an identity',
    claimed_subject String COMMENT 'Subject that the client showed: a claim',
    sni String,
    tls_version LowCardinality(String),
    batch_id UUID,
    inserted_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = MergeTree
PARTITION BY toDate(ts)
ORDER BY ts;

-- What could not be understood, kept raw.
CREATE TABLE IF NOT EXISTS dead_letters
(
    ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    log_name LowCardinality(String),
    node LowCardinality(String),
    reason LowCardinality(String),
    raw String COMMENT 'Serialized entry' CODEC(ZSTD(3)),
    batch_id UUID,
    inserted_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = MergeTree
PARTITION BY toDate(ts)
ORDER BY ts;
