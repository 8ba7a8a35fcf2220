"""The builtin functions that both engines have and answer alike.

Measured against OPA 1.22 and regorus 0.11. Left out on purpose: what reads the world or the
clock (``http.send``, ``net.lookup_ip_addr``, ``opa.runtime``, ``time.now_ns``, ``rand.intn``,
``uuid.rfc4122``), what only one engine has (``crypto.*``, ``io.jwt.*``, ``json.patch``), what
they answer differently (``json.match_schema``), and what prints.
"""

from __future__ import annotations

__all__ = ["PORTABLE"]

PORTABLE = frozenset(
    """
    abs array.concat array.reverse array.slice
    base64.decode base64.encode base64.is_valid base64url.decode base64url.encode
    base64url.encode_no_pad bits.and bits.lsh bits.negate bits.or bits.rsh bits.xor
    ceil concat contains count endswith floor format_int glob.match glob.quote_meta
    graph.reachable hex.decode hex.encode indexof indexof_n intersection
    is_array is_boolean is_null is_number is_object is_set is_string
    json.filter json.is_valid json.marshal json.remove json.unmarshal
    lower max min net.cidr_contains net.cidr_expand net.cidr_is_valid
    numbers.range numbers.range_step
    object.filter object.get object.keys object.remove object.subset object.union object.union_n
    regex.find_n regex.is_valid regex.match regex.replace regex.split
    replace round semver.compare semver.is_valid sort split sprintf startswith
    strings.any_prefix_match strings.any_suffix_match strings.count strings.replace_n
    strings.reverse substring sum
    time.add_date time.clock time.date time.diff time.format time.parse_rfc3339_ns time.weekday
    to_number trim trim_left trim_prefix trim_right trim_space trim_suffix type_name union
    upper walk
    """.split()
)
