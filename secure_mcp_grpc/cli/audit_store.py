"""Reads the store for the audit: every decision as it was recorded, and whether its columns say the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from secure_mcp_grpc.cli.store_reader import StoreReader

__all__ = ["AuditStore", "Rows"]

_WORDS: Final = ("kind", "identity", "spiffe_id", "user", "method", "decision", "reason", "rule", "policy_version")
"""Columns that the sink cuts at 512 characters."""
_NAMES: Final = ("tool", "args_digest", "request_id", "session_id", "peer_fingerprint", "prev", "hash")
"""Columns that it cuts at 4096."""

_FIELDS: Final = ", ".join([*(f"{name} String" for name in (*_WORDS, *_NAMES, "ts")), "roles Array(String)"])


def _cut(value: str, most: int) -> str:
    return f"if(lengthUTF8({value}) > {most}, concat(substringUTF8({value}, 1, {most}), '…'), {value})"


_CHECKS: Final = [
    *(f"if({_cut(f'r.{name}', 512)} = {name}, '', '{name}')" for name in _WORDS),
    *(f"if({_cut(f'r.{name}', 4096)} = {name}, '', '{name}')" for name in _NAMES),
    f"if(arrayMap(x -> {_cut('x', 512)}, r.roles) = roles, '', 'roles')",
    # A sender's clock that is a week off is not believed: the time of arrival stands there then.
    "if(ts = parsed OR abs(dateDiff('second', parsed, inserted_at)) > 600000, '', 'ts')",
]

_CHAINS: Final = "SELECT chain, max(seq), count() FROM decisions GROUP BY chain"
_ROWS: Final = (
    f"WITH JSONExtract(record, 'Tuple({_FIELDS})') AS r, "  # noqa: S608 - put together from constants
    "parseDateTime64BestEffortOrZero(r.ts, 6, 'UTC') AS parsed "
    f"SELECT chain, seq, record, arrayStringConcat(arrayFilter(x -> x != '', [{', '.join(_CHECKS)}]), ', ') "
    "FROM decisions ORDER BY chain, seq"
)
_HASHES: Final = (
    "SELECT seq, hash FROM decisions WHERE chain = {chain:String} AND seq BETWEEN {first:UInt64} AND {last:UInt64}"
)


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows in the order of chain and number, column by column."""

    names: list[tuple[str, int]]
    records: Sequence[bytes]
    wrong: Sequence[bytes]
    """The columns that do not say what the record says; mostly empty."""


class AuditStore(StoreReader):
    """One store, read only."""

    def chains(self) -> dict[str, tuple[int, int]]:
        """Chain → its last number, and how many rows it has."""
        with self._explained():
            return {chain: (last, count) for chain, last, count in self._client.query(_CHAINS).result_rows}

    def rows(self) -> Iterator[Rows]:
        """Every row as it is now, in blocks; one block is held at a time."""
        formats = {"String": "bytes"}
        with self._explained(), self._client.query_column_block_stream(_ROWS, query_formats=formats) as blocks:
            for chains, seqs, records, wrong in blocks:
                names = [
                    (chain.decode(errors="backslashreplace"), seq) for chain, seq in zip(chains, seqs, strict=True)
                ]
                yield Rows(names, records, wrong)

    def hashes(self, chain: str, first: int, last: int) -> list[tuple[int, str]]:
        """Number and hash of a chain's rows from `first` to `last`."""
        parameters = {"chain": chain, "first": max(0, first), "last": max(0, last)}
        with self._explained():
            return [(seq, digest) for seq, digest in self._client.query(_HASHES, parameters=parameters).result_rows]
