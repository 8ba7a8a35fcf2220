"""A value of the wrong kind in a data file is refused: Rego would compare it, and let people in."""

from pathlib import Path

import pytest

from gateway.policy.bundle import bundle_from_files, read_directory
from gateway.policy.findings import BundleError
from gateway.policy.revision import revision_of

POLICIES = Path(__file__).resolve().parents[2] / "policies"
SAMPLE = dict(read_directory(POLICIES).files)

OPENS = 'opens_at: "2027-03-01T09:00:00Z"'


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
        ("limits", "rate: 600", "rate: many", ".rate: Expected `int`, got `str`"),
        ("limits", "general:", "general: 3\n  also:", "stages.general: Expected `array`"),
        ("limits", "model.embed:", "model.write:", "actions.model.write: Invalid enum value"),
        ("limits", "actions:", '"x - at `$.y": 1\nactions:', "unknown field `x - at `$.y`"),
        ("limits", "otherwise:", "otherwise: 3\nalso:", "otherwise: Expected `array`"),
        ("stages", "capture: ", "capture: on - at `$.y` #", "capture: Invalid enum value 'on - at"),
        ("models", "stage: general", "stage: genral", "genral is not in data/stages.yaml"),
        ("models", "tiers: {cyber: 3}", "tiers: {cybr: 3}", "cybr is not in data/tiers.yaml"),
        ("models", "wave: fable-5.1-defenders", "wave: tomorrow", "tomorrow is not in data/waves"),
        ("waves", OPENS, "opens_at: 20270301", "fable-5.1-defenders.opens_at: Expected `str`"),
        ("waves", OPENS, 'opens_at: "0000000000T00000000Z"', "opens_at: Expected a time in UTC"),
        ("waves", OPENS, f"{OPENS}\n  closes_at: null", "closes_at: Expected `str`, got `null`"),
        ("waves", OPENS, f'{OPENS}\n  opened: "yes"', "opened: Expected `bool`, got `str`"),
        ("waves", OPENS, f"{OPENS}\n  opend: true", "unknown field `opend`"),
        ("waves", "{cyber: 2}", "{cyber: two}", "admits.0.min_tier.cyber: Expected `int`"),
        ("waves", "min_tier: {cyber: 2}", "min_tier: null", "min_tier: Expected `object`"),
        ("networks", "- 127.0.0.0/8", "- 127", "loopback.0: Expected `str`, got `int`"),
        ("networks", "- 127.0.0.0/8", "- 127.0.0.0/33", "127.0.0.0/33"),
        ("networks", "\n  - 127.0.0.0/8\n  - ::1/128", " all", "loopback: Expected `array`"),
        ("networks", "loopback:", "LoopBack:", "LoopBack: Expected a lower-case name"),
        ("programmes", "admits: [{}]", "admits: all", "standard.admits: Expected `array`"),
        ("programmes", "admits: [{}]", "admit: [{}]", "standard: Object"),
        ("programmes", "roles: [red-team]", "roles: null", "roles: Expected `array`"),
        ("purposes", "authorisation\n  approval: true", "authorisation\n  approval: 'yes'",
         "authorised-offence.approval: Expected `bool`, got `str`"),
        ("signals", "deny: 900", "deny: high", "misuse.deny: Expected `int`, got `str`"),
        ("signals", "deny: 900", "deny: 1001", "misuse.deny: Expected `int` <= 1000"),
        ("signals", "deny: 900", "deni: 900", "misuse: Object contains unknown field `deni`"),
        ("signals", "{review: 500, deny: 900}", "900", "misuse: Expected `object`, got `int`"),
    ],
)  # fmt: skip
def test_k33_a_value_that_would_fail_open_is_refused_with_its_place(file, old, new, told):
    found = findings(f"data/{file}.yaml", old, new)
    assert any(told in finding for finding in found), found
    assert all(finding.startswith(f"data/{file}.yaml:") for finding in found)


def test_each_wrong_entry_of_a_file_is_told_with_its_own_line():
    old = "misuse: {review: 500, deny: 900}\nsharing: {review: 600, deny: 950}"
    new = "misuse: {review: 500, deny: high}\nsharing: {review: low, deny: 950}"
    text = SAMPLE["data/signals.yaml"].decode()
    first = text[: text.index("misuse:")].count("\n") + 1
    assert findings("data/signals.yaml", old, new) == (
        f"data/signals.yaml:{first}: misuse.deny: Expected `int`, got `str`",
        f"data/signals.yaml:{first + 1}: sharing.review: Expected `int`, got `str`",
    )
