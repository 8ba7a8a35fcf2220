"""The Merkle tree of RFC 6962 section 2.1 over SHA-256, without I/O.

``Tree`` grows by one leaf hash at a time and keeps only its frontier: the roots of the perfect
subtrees that its size is the sum of, largest first (at most 64 hashes). Proofs are made from the
list of all leaf hashes, or of any tree that gives its subtrees' roots (``tiles``), and checked
against roots alone (RFC 9162 sections 2.1.3 and 2.1.4, which give the verification algorithms that
RFC 6962 leaves to the reader).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

__all__ = [
    "EMPTY_ROOT",
    "Subtree",
    "Tree",
    "consistency_path",
    "consistency_proof",
    "inclusion_path",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "root_of",
    "verify_consistency",
    "verify_inclusion",
]

EMPTY_ROOT = sha256(b"").digest()
"""The root of a tree without leaves."""

Subtree = Callable[[int, int], bytes]
"""Start and size in leaves, to the root over them (section 2.1)."""


def leaf_hash(data: bytes) -> bytes:
    """``SHA256(0x00 || data)``."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """``SHA256(0x01 || left || right)``."""
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """A growing tree.

    Args:
        size: how many leaves it already has.
        frontier: the roots of its perfect subtrees, largest first.

    Raises:
        ValueError: the frontier does not fit the size.
    """

    __slots__ = ("_frontier", "size")

    def __init__(self, size: int = 0, frontier: Iterable[bytes] = ()) -> None:
        self.size = size
        self._frontier = list(frontier)
        if size < 0 or len(self._frontier) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves does not have {len(self._frontier)} roots")

    @property
    def frontier(self) -> list[bytes]:
        """A copy of the frontier."""
        return self._frontier.copy()

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        frontier, size = self._frontier, self.size
        while size & 1:
            leaf = node_hash(frontier.pop(), leaf)
            size >>= 1
        frontier.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root hash at the current size."""
        if not self._frontier:
            return EMPTY_ROOT
        root = self._frontier[-1]
        for left in reversed(self._frontier[:-1]):
            root = node_hash(left, root)
        return root


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes."""
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def _split(size: int) -> int:
    """The largest power of two smaller than ``size`` (which is at least 2)."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The audit path of leaf ``index`` in the tree over all ``leaves`` (section 2.1.1).

    Raises:
        ValueError: there is no such leaf.
    """
    return inclusion_path(_over(leaves), index, len(leaves))


def inclusion_path(subtree: Subtree, index: int, size: int) -> list[bytes]:
    """The same of any tree whose subtrees' roots can be asked for.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    start = 0
    while size > 1:
        left = _split(size)
        if index - start < left:
            path.append(subtree(start + left, size - left))
            size = left
        else:
            path.append(subtree(start, left))
            start, size = start + left, size - left
    path.reverse()
    return path


def consistency_proof(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """The proof that the tree over all ``leaves`` extends that over the first ``old``.

    Section 2.1.2; empty where ``old`` is 0 or the whole tree.

    Raises:
        ValueError: ``old`` is not a size that the tree has had.
    """
    return consistency_path(_over(leaves), old, len(leaves))


def consistency_path(subtree: Subtree, old: int, size: int) -> list[bytes]:
    """The same of any tree whose subtrees' roots can be asked for.

    Raises:
        ValueError: ``old`` is not a size that the tree has had.
    """
    if not 0 <= old <= size:
        raise ValueError(f"a tree of {size} leaves never had {old}")
    if old in (0, size):
        return []
    path: list[bytes] = []
    start, whole = 0, True
    while old - start != size:
        left = _split(size)
        if old - start <= left:
            path.append(subtree(start + left, size - left))
            size = left
        else:
            path.append(subtree(start, left))
            start, size, whole = start + left, size - left, False
    if not whole:
        path.append(subtree(start, size))
    path.reverse()
    return path


def _over(leaves: Sequence[bytes]) -> Subtree:
    return lambda start, size: root_of(leaves[start : start + size])


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Whether ``proof`` shows ``leaf`` (a hash) at ``index`` under ``root`` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and computed == root


def verify_consistency(
    old: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether ``proof`` shows that ``root`` extends ``old_root`` (RFC 9162, 2.1.4.2)."""
    if old == size:
        return not proof and old_root == root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    if not 0 < old < size or not proof:
        return False
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    node, last = old - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and first == old_root and second == root
