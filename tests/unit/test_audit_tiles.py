"""Tiles give the same roots and proofs as the list of all leaves does."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audit.tiles import TILE_WIDTH, extended, subtree_of
from gateway.audit.tlog import (
    consistency_path,
    consistency_proof,
    inclusion_path,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_inclusion,
)

LEAVES = [leaf_hash(b"%d" % index) for index in range(70_000)]


def kept(*sizes):
    """The tiles after the tree grew to each of ``sizes``."""
    tiles = {}
    before = 0

    def tile_of(level, number):
        return tiles[level, number]

    for size in sizes:
        for level, number, tile in list(extended(tile_of, before, LEAVES[before:size])):
            tiles[level, number] = tile
        before = size
    return tiles


@given(steps=st.lists(st.integers(0, 700), max_size=6), data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_tree_that_grew_in_any_steps_has_the_roots_and_proofs_of_its_leaves(steps, data):
    sizes = [sum(steps[: index + 1]) for index in range(len(steps))]
    tiles = kept(*sizes)
    size = sizes[-1] if sizes else 0
    subtree = subtree_of(lambda level, number: tiles[level, number])
    assert subtree(0, size) == root_of(LEAVES[:size])
    if size:
        leaf = data.draw(st.integers(0, size - 1))
        assert inclusion_path(subtree, leaf, size) == inclusion_proof(LEAVES[:size], leaf)
        older = data.draw(st.integers(0, size))
        assert consistency_path(subtree, older, size) == consistency_proof(LEAVES[:size], older)
        assert subtree(0, older) == root_of(LEAVES[:older])  # an older root, from the same tiles


def test_three_levels_and_a_proof_that_reads_few_tiles():
    tiles, asked = kept(TILE_WIDTH**2 + 300), []

    def tile_of(level, number):
        asked.append((level, number))
        return tiles[level, number]

    size = TILE_WIDTH**2 + 300
    path = inclusion_path(subtree_of(tile_of), 12_345, size)
    assert verify_inclusion(LEAVES[12_345], 12_345, size, path, root_of(LEAVES[:size]))
    assert max(level for level, _ in tiles) == 2
    assert len(set(asked)) <= 6


def test_a_tile_changed_missing_or_cut_gives_no_valid_proof():
    tiles, size = kept(1000), 1000
    good = root_of(LEAVES[:size])
    tiles[0, 3] = bytes([tiles[0, 3][0] ^ 1]) + tiles[0, 3][1:]
    subtree = subtree_of(lambda level, number: tiles[level, number])
    assert subtree(0, size) != good
    assert not verify_inclusion(LEAVES[800], 800, size, inclusion_path(subtree, 800, size), good)
    for broken in ({}, {key: tile[:-32] for key, tile in tiles.items()}):
        try:
            subtree_of(lambda level, number, broken=broken: broken[level, number])(0, size)
        except KeyError:
            continue
        raise AssertionError("a tile that is not there gave a root")
