"""The engine's configuration: memory caps, grants, constraints. Pure: settings to XML.

chDB reads it as a ClickHouse server would (`config-file` in the connection
string), and runs every connection as the user `default`; its grants are the
floor under both of our users. They hold no `SOURCES`, so that `file()`,
`url()`, `s3()`, `remote()` and the like are refused by the engine itself.
"""

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["FROZEN_SETTINGS", "TABLE_ENGINES", "EngineLimits", "render"]

TABLE_ENGINES = (
    "AggregatingMergeTree",
    "Buffer",
    "CollapsingMergeTree",
    "CoalescingMergeTree",
    "GraphiteMergeTree",
    "MaterializedView",
    "Memory",
    "Merge",
    "MergeTree",
    "Null",
    "ReplacingMergeTree",
    "Set",
    "Join",
    "SummingMergeTree",
    "VersionedCollapsingMergeTree",
    "View",
)
"""Engines that keep their data inside the store."""

FROZEN_SETTINGS = (
    # Each of these names a file or a URL, or holds SQL that no check of the statement would see.
    "additional_result_filter",
    "additional_table_filters",
    "dialect",
    "format_avro_schema_registry_url",
    "format_schema",
    "format_schema_message_name",
    "format_schema_source",
    "format_template_resultset",
    "format_template_resultset_format",
    "format_template_row",
    "format_template_row_format",
    "output_format_schema",
    "parallel_replicas_custom_key",
)

_GRANTS = (
    "GRANT SELECT, SHOW, INSERT, ALTER TABLE, ALTER VIEW, CREATE DATABASE, CREATE TABLE, CREATE VIEW, "
    "CREATE TEMPORARY TABLE, DROP DATABASE, DROP TABLE, DROP VIEW, TRUNCATE, OPTIMIZE, KILL QUERY ON *.*",
    *(f"GRANT TABLE ENGINE ON {engine}" for engine in TABLE_ENGINES),
)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine may take."""

    memory_bytes: int
    query_s: int
    threads: int
    fsync: bool = False


def render(path: Path, limits: EngineLimits) -> str:
    """The configuration, which will be written to `path` (it refers to itself for its users)."""
    query_bytes = limits.memory_bytes // 2
    profile = {
        "max_threads": limits.threads,
        "max_insert_threads": 1,
        "max_memory_usage": query_bytes,
        "max_execution_time": limits.query_s,
        "implicit_select": 0,
        "allow_introspection_functions": 0,
        "output_format_native_use_flattened_dynamic_and_json_serialization": 1,
    }
    constraints = "".join(f"<{name}><readonly/></{name}>" for name in FROZEN_SETTINGS)
    constraints += _bounds("max_memory_usage", 1, query_bytes) + _bounds("max_execution_time", 1, limits.query_s)
    server = {
        "max_server_memory_usage": limits.memory_bytes,
        "mark_cache_size": 32 << 20,
        "uncompressed_cache_size": 0,
        "mmap_cache_size": 64,
        "background_pool_size": 2,
        "background_schedule_pool_size": 4,
        "background_common_pool_size": 2,
        "background_move_pool_size": 1,
        "background_fetches_pool_size": 1,
    }
    merge_tree = {
        # Merged-away parts are kept for eight minutes by default, which doubles a small store.
        "old_parts_lifetime": 60,
        "fsync_after_insert": int(limits.fsync),
        "fsync_part_directory": int(limits.fsync),
        # These must not exceed what background_pool_size allows, or no table opens.
        "number_of_free_entries_in_pool_to_lower_max_size_of_merge": 1,
        "number_of_free_entries_in_pool_to_execute_mutation": 1,
        "number_of_free_entries_in_pool_to_execute_optimize_entire_partition": 1,
    }
    grants = "".join(f"<query>{grant}</query>" for grant in _GRANTS)
    return (
        "<clickhouse>"
        + _elements(server)
        + f"<merge_tree>{_elements(merge_tree)}</merge_tree>"
        + f"<user_directories><users_xml><path>{escape(str(path))}</path></users_xml></user_directories>"
        + "<users><default><password></password><networks><ip>::/0</ip></networks>"
        + f"<profile>default</profile><quota>default</quota><grants>{grants}</grants></default></users>"
        + f"<profiles><default>{_elements(profile)}<constraints>{constraints}</constraints></default></profiles>"
        + "<quotas><default/></quotas></clickhouse>\n"
    )


def _elements(values: dict[str, int]) -> str:
    return "".join(f"<{name}>{value}</{name}>" for name, value in values.items())


def _bounds(name: str, least: int, most: int) -> str:
    return f"<{name}><min>{least}</min><max>{most}</max></{name}>"
