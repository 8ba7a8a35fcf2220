"""The tree against the definition of RFC 6962 section 2.1, written out naively."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.tlog import (
    EMPTY_ROOT,
    Tree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)


def split(n):
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def node(left, right):
    return sha256(b"\x01" + left + right).digest()


def mth(leaves):
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return node(mth(leaves[:k]), mth(leaves[k:]))


def path(m, leaves):
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m, leaves, whole):
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


LEAVES = [leaf_hash(b"%d" % i) for i in range(130)]
sizes = st.integers(1, len(LEAVES))


def test_known_answers_of_rfc_6962():
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert (
        leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )
    assert Tree().root() == EMPTY_ROOT


@given(size=st.integers(0, len(LEAVES)), cut=st.integers(0, len(LEAVES)))
def test_a_tree_restored_from_its_frontier_grows_to_the_same_root(size, cut):
    cut = min(cut, size)
    tree = Tree()
    for leaf in LEAVES[:cut]:
        tree.append(leaf)
    tree = Tree(cut, tree.frontier)
    for leaf in LEAVES[cut:size]:
        tree.append(leaf)
    assert tree.root() == mth(LEAVES[:size]) == root_of(LEAVES[:size])


@given(size=sizes, data=st.data())
def test_inclusion_proofs_are_those_of_the_definition(size, data):
    index = data.draw(st.integers(0, size - 1))
    leaves, root = LEAVES[:size], mth(LEAVES[:size])
    proof = inclusion_proof(leaves, index)
    assert proof == path(index, leaves)
    assert verify_inclusion(leaves[index], index, size, proof, root)


@given(size=sizes, data=st.data())
def test_consistency_proofs_are_those_of_the_definition(size, data):
    old = data.draw(st.integers(1, size))
    leaves = LEAVES[:size]
    proof = consistency_proof(leaves, old)
    assert proof == subproof(old, leaves, True)
    assert verify_consistency(old, mth(leaves[:old]), size, mth(leaves), proof)


@given(size=st.integers(2, len(LEAVES)), data=st.data())
def test_a_changed_inclusion_proof_is_refused(size, data):
    index = data.draw(st.integers(0, size - 1))
    root, proof = mth(LEAVES[:size]), inclusion_proof(LEAVES[:size], index)
    other = data.draw(st.integers(0, size - 1).filter(lambda i: i != index))
    at = data.draw(st.integers(0, len(proof) - 1))
    bad = [*proof[:at], bytes([proof[at][0] ^ 1]) + proof[at][1:], *proof[at + 1 :]]
    leaf = LEAVES[index]
    assert not verify_inclusion(LEAVES[other], index, size, proof, root)
    assert not verify_inclusion(leaf, index, size, bad, root)
    assert not verify_inclusion(leaf, index, size, proof[:-1], root)
    assert not verify_inclusion(leaf, index, size, [*proof, root], root)
    assert not verify_inclusion(leaf, size, size, proof, root)


@given(size=st.integers(2, len(LEAVES)), data=st.data())
def test_a_fork_has_no_consistency_proof(size, data):
    old = data.draw(st.integers(1, size - 1))
    root, proof = mth(LEAVES[:size]), consistency_proof(LEAVES[:size], old)
    fork = mth([*LEAVES[: old - 1], leaf_hash(b"another")])
    assert not verify_consistency(old, fork, size, root, proof)
    assert not verify_consistency(old, mth(LEAVES[:old]), size, fork, proof)
    assert not verify_consistency(old, mth(LEAVES[:old]), size, root, proof[:-1])
    assert not verify_consistency(old, mth(LEAVES[:old]), size, root, [*proof, root])


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_proof(LEAVES[:3], 3)
    with pytest.raises(ValueError, match="never had"):
        consistency_proof(LEAVES[:3], 4)
    with pytest.raises(ValueError, match="does not have"):
        Tree(3, [LEAVES[0]])
    assert verify_consistency(0, EMPTY_ROOT, 3, mth(LEAVES[:3]), [])
    assert not verify_consistency(4, EMPTY_ROOT, 3, mth(LEAVES[:3]), [LEAVES[0]])
    assert verify_consistency(3, LEAVES[0], 3, LEAVES[0], [])
