"""A value of the wrong kind in a data file is refused: Rego would compare it, and let people in."""

from pathlib import Path

import pytest

from gateway.policy.bundle import bundle_from_files, read_directory
from gateway.policy.findings import BundleError
from gateway.policy.revision import revision_of

POLICIES = Path(__file__).resolve().parents[2] / "policies"
SAMPLE = dict(read_directory(POLICIES).files)


def findings(file: str, old: str, new: str) -> list[str]:
    text = SAMPLE[file].decode()
    assert old in text
    try:
        revision_of(bundle_from_files({**SAMPLE, file: text.replace(old, new, 1).encode()}))
    except BundleError as error:
        return error.findings
    return []


def test_the_sample_is_of_the_shape():
    assert findings("data/tiers.yaml", "open_evaluation: 0", "open_evaluation: 3") == []


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("tiers", "open_evaluation: 0", "open_evaluation: lots", "open_evaluation"),
        ("tiers", "open_evaluation: 0", "open_evaluation: -1", "open_evaluation"),
        ("tiers", "open_evaluation: 0", "open_evalution: 0", "open_evalution"),
        ("tiers", "vetting: {identity: 1}", "vetting: {identity: high}", "vetting"),
        ("tiers", "targets_from: 2", "targets_from: two", "targets_from"),
        ("stages", "min_tier: {cyber: 2}", "min_tier: {cyber: none}", "min_tier"),
        ("stages", "visible_to:", "visable_to:", "visable_to"),
        ("limits", "rate: 600", "rate: many", "rate"),
        ("models", "stage: general", "stage: genral", "genral is not in data/stages.yaml"),
        ("models", "tiers: {cyber: 3}", "tiers: {cybr: 3}", "cybr is not in data/tiers.yaml"),
        ("models", "wave: fable-5.1-defenders", "wave: tomorrow", "tomorrow is not in data/waves"),
    ],
)
def test_k33_a_value_that_would_fail_open_is_refused_with_its_place(file, old, new, told):
    found = findings(f"data/{file}.yaml", old, new)
    assert any(told in finding for finding in found), found
    assert all(finding.startswith(f"data/{file}.yaml:") for finding in found)
