"""HPACK's Huffman code (RFC 7541, 5.2 and B), read a whole octet at a time: headers are unique on every request. Pure.

Between two octets the decoder stands somewhere in the tree of codes. Where it
goes from there with the next octet, and what that octet completes, is worked
out once.
"""

from typing import Final

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

__all__ = ["NotHuffman", "decoded"]

_EOS: Final = 256
_MAX_PADDING_BITS: Final = 7
_REMEMBERED: Final = 16_384
"""Of 65,536 steps that there are; text of one alphabet takes some hundreds."""


class NotHuffman(ValueError):
    """The octets hold the end-of-string code, or their padding is not the beginning of it."""


class _Place(dict[int, "tuple[_Place, bytes]"]):
    """One node of the tree: for the next octet, the place after it and the symbols that were completed."""

    __slots__ = ("may_end", "node")

    def __init__(self, node: int) -> None:
        super().__init__()
        self.node = node
        self.may_end = False

    def __missing__(self, octet: int) -> "tuple[_Place, bytes]":
        global _remembered
        step = _step(self.node, octet)
        if _remembered < _REMEMBERED:
            _remembered += 1
            self[octet] = step
        return step


def decoded(text: bytes) -> bytes:
    """The octets that `text` stands for; raises `NotHuffman`."""
    place = _places[0]
    symbols = []
    for octet in text:
        place, completed = place[octet]
        symbols.append(completed)
    if not place.may_end:
        raise NotHuffman
    return b"".join(symbols)


def _step(node: int, octet: int) -> tuple[_Place, bytes]:
    symbols = bytearray()
    for bit in range(7, -1, -1):
        node = _TREE[node][octet >> bit & 1]
        if node <= 0:
            if node == -_EOS:
                raise NotHuffman
            symbols.append(-node)
            node = 0
    return _places[node], bytes(symbols)


def _tree() -> list[list[int]]:
    """Nodes as pairs: another node for each bit or, negative, a symbol. The root is 0, so that 0 below is symbol 0."""
    nodes = [[0, 0]]
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        node = 0
        for bit in range(length - 1, 0, -1):
            way = code >> bit & 1
            if nodes[node][way] == 0:
                nodes[node][way] = len(nodes)
                nodes.append([0, 0])
            node = nodes[node][way]
        nodes[node][code & 1] = -symbol
    return nodes


def _all_places() -> list[_Place]:
    """A text may end after a symbol, and up to seven ones later (5.2)."""
    places = [_Place(node) for node in range(len(_TREE))]
    node = 0
    for _ in range(_MAX_PADDING_BITS + 1):
        places[node].may_end = True
        node = _TREE[node][1]
    return places


_TREE: Final = _tree()
_places: Final = _all_places()
_remembered = 0
