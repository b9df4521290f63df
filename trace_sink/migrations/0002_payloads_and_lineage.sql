-- What interactions hold of messages, of the chain they belong to, and of what data went where.
ALTER TABLE interactions
    ADD COLUMN IF NOT EXISTS finding LowCardinality(String) DEFAULT '' COMMENT 'What a guard of the bridge found, such as tool_drift' AFTER arguments,
    ADD COLUMN IF NOT EXISTS request String DEFAULT '' COMMENT 'Sanitized JSON of params beside arguments' CODEC(ZSTD(3)) AFTER finding,
    ADD COLUMN IF NOT EXISTS response String DEFAULT '' COMMENT 'Sanitized JSON of the result or error' CODEC(ZSTD(3)) AFTER request,
    ADD COLUMN IF NOT EXISTS payload_encoding LowCardinality(String) DEFAULT '' COMMENT 'sealed1: arguments, request and response are sealed for the owner of a key' AFTER response,
    ADD COLUMN IF NOT EXISTS trace_id String DEFAULT '' COMMENT 'W3C trace id' AFTER payload_encoding,
    ADD COLUMN IF NOT EXISTS span_id String DEFAULT '' COMMENT 'Span of this hop' AFTER trace_id,
    ADD COLUMN IF NOT EXISTS parent_span_id String DEFAULT '' COMMENT 'Span of the caller, as it tells' AFTER span_id,
    ADD COLUMN IF NOT EXISTS correlation_id String DEFAULT '' COMMENT 'Chosen by whoever began the chain' AFTER parent_span_id,
    ADD COLUMN IF NOT EXISTS hops UInt16 DEFAULT 0 COMMENT 'Bridges the chain went through so far' AFTER correlation_id,
    ADD COLUMN IF NOT EXISTS resources Array(String) DEFAULT [] COMMENT 'URIs read or returned' AFTER hops,
    ADD COLUMN IF NOT EXISTS digests_in Array(String) DEFAULT [] COMMENT 'Keyed digests of texts in the arguments' AFTER resources,
    ADD COLUMN IF NOT EXISTS digests_out Array(String) DEFAULT [] COMMENT 'Keyed digests of texts and files in the result' AFTER digests_in,
    ADD COLUMN IF NOT EXISTS tokens_in UInt64 DEFAULT 0 CODEC(T64, ZSTD(1)) AFTER digests_out,
    ADD COLUMN IF NOT EXISTS tokens_out UInt64 DEFAULT 0 CODEC(T64, ZSTD(1)) AFTER tokens_in,
    ADD COLUMN IF NOT EXISTS tokens_source LowCardinality(String) DEFAULT '' COMMENT 'reported or estimated' AFTER tokens_out;

-- A chain is read by its trace id, over all days.
ALTER TABLE interactions ADD INDEX IF NOT EXISTS by_trace trace_id TYPE bloom_filter(0.01) GRANULARITY 4;
