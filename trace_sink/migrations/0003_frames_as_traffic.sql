-- How a message ended as `requests` would say it, and what else a frame of a pipelined session needs to stand beside it.
ALTER TABLE interactions
    ADD COLUMN IF NOT EXISTS request_outcome LowCardinality(String) DEFAULT '' COMMENT 'As requests.outcome' AFTER error_code,
    ADD COLUMN IF NOT EXISTS grpc_status Int16 DEFAULT -1 COMMENT 'gRPC status; of a frame, what its own call would have had' AFTER request_outcome,
    ADD COLUMN IF NOT EXISTS reason LowCardinality(String) DEFAULT '' COMMENT 'Why a frame was not executed, or a stream was ended: code of authz_service, or rate_limited' AFTER grpc_status,
    ADD COLUMN IF NOT EXISTS duration_us UInt64 DEFAULT 0 COMMENT 'Arrival, or admission of a frame, to end' CODEC(T64, ZSTD(1)) AFTER reason;

-- Lineage and chains are followed by value, over all days.
ALTER TABLE interactions
    ADD INDEX IF NOT EXISTS by_correlation correlation_id TYPE bloom_filter(0.01) GRANULARITY 4,
    ADD INDEX IF NOT EXISTS by_resource resources TYPE bloom_filter(0.01) GRANULARITY 4,
    ADD INDEX IF NOT EXISTS by_digest_in digests_in TYPE bloom_filter(0.01) GRANULARITY 4,
    ADD INDEX IF NOT EXISTS by_digest_out digests_out TYPE bloom_filter(0.01) GRANULARITY 4;

-- Every request once, and where one was refused, the reason of who refused: authorization allowed it, or was not asked,
-- where a limit of rates or the bridge did. Envoy logs a pipelined session as one request, when it ends; what is in it the bridge records,
-- frame by frame. The session itself stays one request, grpc:session, whose bytes are those of its frames.
CREATE VIEW IF NOT EXISTS traffic AS
SELECT
    r.ts AS ts, r.node AS node, r.request_id AS request_id, r.trace_id AS trace_id, r.session_id AS session_id,
    r.identity AS identity, r.spiffe_id AS spiffe_id, r.user AS user, r.server AS server, r.rpc AS rpc,
    r.method AS method, r.tool AS tool, r.outcome AS outcome, r.decision AS decision,
    CAST(multiIf(r.decision = 'deny', r.reason, r.outcome = 'limited', 'rate_limited',
        r.outcome = 'denied' AND r.decision = 'allow', 'refused_by_bridge', r.reason), 'LowCardinality(String)') AS reason,
    CAST(if(r.outcome IN ('denied', 'limited') AND r.decision = 'allow', '', r.rule), 'LowCardinality(String)') AS rule,
    r.chain AS chain, r.seq AS seq, r.grpc_status AS grpc_status, r.details AS details,
    r.duration_us AS duration_us, r.upstream_us AS upstream_us,
    if(r.method = 'grpc:session', 0, r.request_bytes) AS request_bytes,
    if(r.method = 'grpc:session', 0, r.response_bytes) AS response_bytes,
    r.peer_address AS peer_address
FROM requests AS r
UNION ALL
SELECT
    i.ts AS ts, i.node AS node, i.request_id AS request_id, i.trace_id AS trace_id, i.session_id AS session_id,
    i.identity AS identity, CAST('', 'LowCardinality(String)') AS spiffe_id, i.user AS user, i.server AS server, i.rpc AS rpc,
    i.method AS method, i.tool AS tool, i.request_outcome AS outcome,
    CAST(multiIf(i.reason NOT IN ('', 'rate_limited'), 'deny', i.seq > 0, 'allow', ''), 'LowCardinality(String)') AS decision,
    CAST(multiIf(i.reason != '', i.reason, i.request_outcome != 'denied', '', i.finding != '', i.finding, 'refused_by_bridge'),
        'LowCardinality(String)') AS reason,
    CAST('', 'LowCardinality(String)') AS rule,
    i.chain AS chain, i.seq AS seq, i.grpc_status AS grpc_status,
    CAST(if(i.reason = 'rate_limited', 'bridge_rate_limited', ''), 'LowCardinality(String)') AS details,
    i.duration_us AS duration_us, i.upstream_us AS upstream_us,
    i.request_bytes AS request_bytes, i.response_bytes AS response_bytes,
    '' AS peer_address
FROM interactions AS i
WHERE i.rpc = 'Session' AND i.method != 'grpc:session';
