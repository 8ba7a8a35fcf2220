"""The body's facts: K1, K2, K13, K15, K20 at the level of the reading."""

import json

import pytest

from gateway.core.facts import Program, ToolKind, Wire
from gateway.core.reasons import Reason
from gateway.core.refusal import Refused
from gateway.wire.request import MAX_OUTPUT_TOKENS, read_request


def read(wire, document, **options):
    return read_request(wire, json.dumps(document).encode(), **options)


def refusal(wire, body, **options):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Refused) as caught:
        read_request(wire, raw, **options)
    return caught.value.refusal


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
MESSAGES = {**CHAT, "max_tokens": 100}
RESPONSES = {"model": "m", "input": "hi"}


def test_a_plain_chat_body():
    body = read(Wire.CHAT, {**CHAT, "stream": True, "stream_options": {"include_usage": True}})
    assert (body.model, body.other_models, body.stream) == ("m", (), True)
    assert (body.background, body.store, body.max_output_tokens) == (False, False, 0)
    assert (body.tool_kinds, body.custom_tools, body.program) == ((), 0, None)
    assert (body.remote_fetch, body.object_references) == (False, ())
    assert body.include_usage_asked


def test_responses_are_stored_unless_the_body_says_otherwise():
    assert read(Wire.RESPONSES, RESPONSES).store
    assert read(Wire.RESPONSES, {**RESPONSES, "store": None}).store
    assert not read(Wire.RESPONSES, {**RESPONSES, "store": False}).store
    assert not read(Wire.CHAT, CHAT).store


LOOKALIKES = [
    "Model", "MODEL", "mOdel", "model ", "\u00a0model", "ｍｏｄｅｌ", "Models", "maxTokens",
    "MaxTokens",
    "max-tokens", "max_tokenſ", "maxOutputTokens", "Stream", "Tools", "TOOLS", "Fallbacks",
    "fallbackModel", "Store", "bacKground", "previousResponseId", "PREVIOUS_RESPONSE_ID",
    "safetyIdentifier", "accessPrograms", "N", "Container",
]  # fmt: skip


@pytest.mark.parametrize("key", LOOKALIKES)
@pytest.mark.parametrize("wire", [Wire.CHAT, Wire.MESSAGES, Wire.RESPONSES])
def test_k1_keys_that_only_resemble_a_field_are_refused(wire, key):
    for document in ({key: "x", "model": "m"}, {"model": "m", key: "x"}):
        found = refusal(wire, document)
        assert found.reason is Reason.REQUEST_INVALID
        assert f"`{key}`" not in found.message


@pytest.mark.parametrize("model", [None, 1, True, "", [], ["m"], {"id": "m"}, "m" * 257])
def test_k1_the_model_is_one_string(model):
    assert "`model`" in refusal(Wire.CHAT, {**CHAT, "model": model}).message


def test_k1_the_model_is_required():
    assert "`model`" in refusal(Wire.RESPONSES, {"input": "hi"}).message


def test_k1_an_escaped_key_is_the_same_key():
    assert read_request(Wire.CHAT, b'{"\\u006dodel":"a"}').model == "a"
    found = refusal(Wire.CHAT, b'{"model":"a","\\u006dodel":"b"}')
    assert "key stands twice" in found.message
    assert "(model)" in found.message


@pytest.mark.parametrize(
    ("wire", "extra", "named"),
    [
        (Wire.MESSAGES, {"fallbacks": [{"model": "x"}, {"model": "y"}]}, {"x", "y"}),
        (Wire.MESSAGES, {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "x"}]},
         {"x"}),
        (Wire.MESSAGES, {"compaction": {"type": "summarize", "model": "x"}}, {"x"}),
        (Wire.MESSAGES, {"messages": [{"role": "system", "content": [{"type": "tool_addition",
            "tool": {"type": "tool_definition", "definition": {"type": "advisor_20260301",
            "name": "advisor", "model": "x"}}}]}]}, {"x"}),
        (Wire.CHAT, {"models": ["x", "y", "m"]}, {"x", "y", "m"}),
        (Wire.MESSAGES, {"fallbacks": [{"model": "m"}]}, {"m"}),
        (Wire.MESSAGES, {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "m"}]},
         {"m"}),
        (Wire.CHAT, {"models": [{"id": "x"}, {"model": "y"}]}, {"x", "y"}),
        (Wire.CHAT, {"fallbacks": ["x", {"model": "y"}]}, {"x", "y"}),
        (Wire.CHAT, {"fallbacks": [{"m": ["x", "y"]}]}, {"x", "y", "m"}),
        (Wire.CHAT, {"context_window_fallbacks": [{"m": ["x"]}]}, {"x", "m"}),
        (Wire.CHAT, {"fallback_model": "x"}, {"x"}),
        (Wire.CHAT, {"fallback_models": ["x"]}, {"x"}),
        (Wire.CHAT, {"draft_model": "x", "model_id": "y"}, {"x", "y"}),
        (Wire.CHAT, {"moderation": {"model": "x"}}, {"x"}),
        (Wire.CHAT, {"plugins": [{"id": "auto-router", "allowed_models": ["x/*"]}]}, {"x/*"}),
        (Wire.CHAT, {"agents": [{"name": "a", "model": "x"}]}, {"x"}),
        (Wire.CHAT, {"agents": {"a": {"model": {"id": "x"}}}}, {"x"}),
        (Wire.RESPONSES, {"tools": [{"type": "image_generation", "model": "x"}]}, {"x"}),
        (Wire.RESPONSES, {"tools": [{"type": "image_generation", "svg": {"model": "x"}}]}, {"x"}),
        (Wire.RESPONSES, {"tools": [{"type": "namespace", "name": "n",
            "tools": [{"type": "image_generation", "model": "x"}]}]}, {"x"}),
        (Wire.RESPONSES, {"input": [{"type": "tool_search_output", "call_id": "c",
            "tools": [{"type": "image_generation", "model": "x"}]}]}, {"x"}),
        (Wire.RESPONSES, {"audio": {"input": {"transcription": {"model": "x"}}}}, {"x"}),
    ],
)  # fmt: skip
def test_k2_every_model_that_the_provider_might_run_is_named(wire, extra, named):
    assert set(read(wire, {**CHAT, **extra}).other_models) == named


@pytest.mark.parametrize(
    ("wire", "extra"),
    [
        (Wire.CHAT, {"messages": [{"role": "user", "content": [
            {"type": "text", "text": '{"model":"x"}', "model": "x"}]}]}),
        (Wire.CHAT, {"tools": [{"type": "function", "function": {"name": "f", "parameters": {
            "type": "object", "properties": {"model": {"type": "string"}}}}}]}),
        (Wire.MESSAGES, {"tools": [{"name": "f", "input_schema": {
            "properties": {"model": {"enum": ["x"]}}}}]}),
        (Wire.MESSAGES, {"messages": [{"role": "assistant", "content": [{"type": "tool_use",
            "id": "t", "name": "f", "input": {"model": "x", "tools": [{"model": "x"}],
                                              "file_id": "file-1"}}]}]}),
        (Wire.MESSAGES, {"messages": [{"role": "assistant", "content": [{"type": "fallback",
            "from": {"model": "x"}, "to": {"model": "y"}}]}]}),
        (Wire.MESSAGES, {"fallback_credit_token": "t"}),
        (Wire.CHAT, {"response_format": {"type": "json_schema", "json_schema": {
            "schema": {"properties": {"model": {"const": "x"}}}}}}),
        (Wire.CHAT, {"metadata": {"model": "x"}}),
        (Wire.CHAT, {"provider": {"allow_fallbacks": True}}),
        (Wire.CHAT, {"fallbacks": None, "models": None}),
    ],
)  # fmt: skip
def test_what_the_caller_merely_talks_about_names_no_model(wire, extra):
    body = read(wire, {**CHAT, **extra})
    assert body.other_models == ()
    assert body.object_references == ()


@pytest.mark.parametrize(
    "extra",
    [
        {"fallbacks": "default"},
        {"fallbacks": 3},
        {"fallbacks": [None]},
        {"models": [1]},
        {"models": {"a": 1}},
        {"models": [""]},
        {"models": [f"m{number}" for number in range(17)]},
        {"tools": [{"type": "advisor_1", "model": 7}]},
        {"tools": [{"type": "advisor_1", "Model": "x"}]},
    ],
)
def test_k2_a_model_member_that_cannot_be_judged_is_refused(extra):
    assert refusal(Wire.MESSAGES, {**MESSAGES, **extra}).reason is Reason.REQUEST_INVALID


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "max_output_tokens", "n"])
@pytest.mark.parametrize("raw", ["1.0", "1e2", "-1", "true", '"5"', "[]", "100000001"])
def test_counts_are_whole_numbers(field, raw):
    body = f'{{"model":"m","{field}":{raw}}}'.encode()
    assert f"`{field}`" in refusal(Wire.CHAT, body).message


def test_the_output_bound_is_the_largest_named_times_the_answers():
    both = {**CHAT, "max_tokens": 7, "max_completion_tokens": 9}
    assert read(Wire.CHAT, both).max_output_tokens == 9
    assert read(Wire.CHAT, {**both, "n": 3}).max_output_tokens == 27
    assert read(Wire.CHAT, {**both, "n": None}).max_output_tokens == 9
    assert read(Wire.MESSAGES, {**MESSAGES, "n": 3}).max_output_tokens == 100
    more = {**MESSAGES, "fallbacks": [{"model": "x", "max_tokens": 500}]}
    assert read(Wire.MESSAGES, more).max_output_tokens == 500
    assert "`n`" in refusal(Wire.CHAT, {**CHAT, "max_tokens": MAX_OUTPUT_TOKENS, "n": 2}).message


OWN_BOUNDS = {
    Wire.CHAT: {"max_tokens", "max_completion_tokens"},
    Wire.RESPONSES: {"max_output_tokens"},
    Wire.MESSAGES: {"max_tokens"},
}


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
@pytest.mark.parametrize("wire", OWN_BOUNDS)
def test_another_protocols_output_bound_binds_nothing_and_is_refused(wire, field):
    for document in ({field: 7}, {"fallbacks": [{"model": "x", field: 7}]}):
        if field in OWN_BOUNDS[wire]:
            assert read(wire, {"model": "m", **document}).max_output_tokens == 7
            continue
        found = refusal(wire, {"model": "m", **document})
        assert found.reason is Reason.REQUEST_INVALID
        assert f"`{field}`" in found.message
        assert any(f"`{own}` instead" in found.message for own in OWN_BOUNDS[wire])
    assert read(wire, {"model": "m", field: None}).max_output_tokens == 0


@pytest.mark.parametrize("wire", [Wire.EMBEDDINGS, Wire.COUNT_TOKENS])
def test_what_generates_nothing_has_no_output_bound(wire):
    assert (
        read(wire, {"model": "m", "max_tokens": 5, "max_output_tokens": 6}).max_output_tokens == 0
    )


@pytest.mark.parametrize("field", ["stream", "background", "store"])
@pytest.mark.parametrize("value", [1, 0, "true", [], {}])
def test_flags_are_booleans(field, value):
    assert f"`{field}`" in refusal(Wire.RESPONSES, {**RESPONSES, field: value}).message


@pytest.mark.parametrize(
    ("wire", "tool", "kind"),
    [
        (Wire.CHAT, {"type": "function", "function": {"name": "f"}}, ToolKind.FUNCTION),
        (Wire.RESPONSES, {"type": "custom", "name": "f"}, ToolKind.CUSTOM),
        (Wire.MESSAGES, {"name": "f", "input_schema": {}}, ToolKind.FUNCTION),
        (Wire.MESSAGES, {"type": "custom", "name": "f", "input_schema": {}}, ToolKind.FUNCTION),
        (Wire.RESPONSES, {"type": "web_search"}, ToolKind.WEB_SEARCH),
        (Wire.RESPONSES, {"type": "web_search_preview_2025_03_11"}, ToolKind.WEB_SEARCH),
        (Wire.MESSAGES, {"type": "web_search_20260318"}, ToolKind.WEB_SEARCH),
        (Wire.MESSAGES, {"type": "web_fetch_20260318"}, ToolKind.WEB_FETCH),
        (Wire.RESPONSES, {"type": "file_search"}, ToolKind.FILE_SEARCH),
        (Wire.RESPONSES, {"type": "code_interpreter"}, ToolKind.CODE_EXECUTION),
        (Wire.MESSAGES, {"type": "code_execution_20260521"}, ToolKind.CODE_EXECUTION),
        (Wire.RESPONSES, {"type": "local_shell"}, ToolKind.SHELL),
        (Wire.MESSAGES, {"type": "bash_20250124", "name": "bash"}, ToolKind.SHELL),
        (Wire.RESPONSES, {"type": "computer_use_preview"}, ToolKind.COMPUTER),
        (Wire.MESSAGES, {"type": "computer_toolset_20260801"}, ToolKind.COMPUTER),
        (Wire.MESSAGES, {"type": "text_editor_20250728"}, ToolKind.TEXT_EDITOR),
        (Wire.RESPONSES, {"type": "apply_patch"}, ToolKind.TEXT_EDITOR),
        (Wire.RESPONSES, {"type": "mcp", "server_label": "l"}, ToolKind.MCP),
        (Wire.MESSAGES, {"type": "mcp_toolset"}, ToolKind.MCP),
        (Wire.RESPONSES, {"type": "image_generation"}, ToolKind.IMAGE_GENERATION),
        (Wire.MESSAGES, {"type": "memory_20250818"}, ToolKind.MEMORY),
        (Wire.MESSAGES, {"type": "advisor_20260301", "model": "m"}, ToolKind.ADVISOR),
        (Wire.MESSAGES, {"type": "tool_search_tool_bm25"}, ToolKind.OTHER),
        (Wire.MESSAGES, {"type": "bashful"}, ToolKind.OTHER),
        (Wire.MESSAGES, {"type": ["function"]}, ToolKind.OTHER),
        (Wire.MESSAGES, {"type": "brand_new_thing"}, ToolKind.OTHER),
    ],
)
def test_a_tool_is_known_by_what_it_can_reach(wire, tool, kind):
    body = read(wire, {**CHAT, "tools": [tool]})
    assert body.tool_kinds == (kind,)
    assert body.custom_tools == (kind in {ToolKind.FUNCTION, ToolKind.CUSTOM, ToolKind.MCP})


def test_tools_are_counted_wherever_they_are_offered():
    body = read(
        Wire.RESPONSES,
        {
            **RESPONSES,
            "tools": [
                {"type": "function", "name": "a"},
                {"type": "namespace", "name": "n", "tools": [{"type": "function"}] * 3},
                {"type": "mcp", "server_url": "https://x.example"},
            ],
            "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function"}]},
        },
    )
    assert body.tool_kinds == (ToolKind.FUNCTION, ToolKind.MCP)
    assert body.custom_tools == 5
    old = read(Wire.CHAT, {**CHAT, "functions": [{"name": "f"}], "web_search_options": {}})
    assert old.tool_kinds == (ToolKind.FUNCTION, ToolKind.WEB_SEARCH)
    servers = read(
        Wire.MESSAGES, {**MESSAGES, "mcp_servers": [{"type": "url", "url": "https://x"}]}
    )
    assert servers.tool_kinds == (ToolKind.MCP,)
    assert servers.remote_fetch


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        (None, None),
        ({}, None),
        ({"cyber": None}, None),
        ({"cyber": "standard"}, Program.STANDARD),
        ({"cyber": "daybreak_blue"}, Program.DAYBREAK_BLUE),
        ({"cyber": "daybreak_red"}, Program.DAYBREAK_RED),
        ({"cyber": "daybreak_ultraviolet"}, Program.OTHER),
        ({"bio": "open"}, Program.OTHER),
    ],
)
def test_the_access_program(programs, expected):
    assert read(Wire.RESPONSES, {**RESPONSES, "access_programs": programs}).program is expected


@pytest.mark.parametrize("programs", ["cyber", [], {"cyber": 1}])
def test_an_access_program_of_another_shape_is_refused(programs):
    found = refusal(Wire.RESPONSES, {**RESPONSES, "access_programs": programs})
    assert "`access_programs" in found.message


def _content(part):
    return {"messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    ("wire", "extra", "field"),
    [
        (Wire.RESPONSES, {"previous_response_id": "resp_1"}, "previous_response_id"),
        (Wire.RESPONSES, {"conversation": "conv_1"}, "conversation"),
        (Wire.RESPONSES, {"conversation": {"id": "conv_1"}}, "conversation"),
        (Wire.RESPONSES, {"prompt": {"id": "pmpt_1"}}, "prompt"),
        (Wire.RESPONSES, {"input": [{"type": "item_reference", "id": "i"}]}, "item_reference"),
        (Wire.RESPONSES, {"input": [{"id": "i"}]}, "item_reference"),
        *((Wire.RESPONSES, {"input": [{"id": "i", **item}]}, "item_reference") for item in (
            {"type": "image_generation_call"},
            {"type": "image_generation_call", "result": "", "content": "x"},
            {"type": "reasoning", "summary": []},
            {"type": "reasoning", "summary": [], "content": [], "encrypted_content": None},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]},
            {"type": "reasoning", "summary": [], "content": [
                {"type": "reasoning_text", "text": "t"}]},
            {"type": "reasoning", "summary": [], "encrypted_content": ""},
            {"type": "reasoning", "summary": [], "encrypted_content": True},
            {"type": "compaction", "encrypted_content": {"id": "e"}},
            {"type": "file_search_call", "queries": ["q"], "results": None},
            {"type": "code_interpreter_call", "code": "1", "outputs": []},
            {"type": "compaction"},
            {"type": "message", "role": "assistant"},
            {"role": "assistant"},
            {"type": "function_call", "name": "f", "call_id": "c"},
            {"type": "brand_new_call", "content": "x"},
            {"type": ["message"], "content": "x"},
        )),
        (Wire.RESPONSES, {"input": [{"role": "user", "content": [
            {"type": "input_file", "file_id": "file-1"}]}]}, "file_id"),
        (Wire.RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c",
            "output": [{"type": "input_image", "file_id": "file-1"}]}]}, "file_id"),
        (Wire.RESPONSES, {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
         "vector_store_ids"),
        (Wire.RESPONSES, {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]},
         "container"),
        (Wire.RESPONSES, {"tools": [{"type": "code_interpreter", "container": {
            "type": "auto", "file_ids": ["file-1"]}}]}, "file_ids"),
        (Wire.RESPONSES, {"tools": [{"type": "shell", "environment": {
            "type": "container_reference", "container_id": "cntr_1"}}]}, "container_id"),
        (Wire.RESPONSES, {"tools": [{"type": "mcp", "tunnel_id": "t_1"}]}, "tunnel_id"),
        (Wire.RESPONSES, {"prompt_cache_options": {"comparison_response_id": "resp_1"}},
         "comparison_response_id"),
        (Wire.CHAT, _content({"type": "file", "file": {"file_id": "file-1"}}), "file_id"),
        (Wire.CHAT, _content({"type": "image_file", "image_file": {"file_id": "f"}}), "file_id"),
        (Wire.CHAT, {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "audio"),
        (Wire.CHAT, {"audio": {"voice": {"id": "voice_1"}}}, "voice"),
        (Wire.CHAT, {"thread_id": "thread_1"}, "thread_id"),
        (Wire.CHAT, {"assistant_id": "asst_1"}, "assistant_id"),
        (Wire.MESSAGES, {"container": "container_1"}, "container"),
        (Wire.MESSAGES, {"container": {"skills": [{"skill_id": "s"}]}}, "container"),
        (Wire.MESSAGES, {"thread": {"type": "continue", "id": "t"}}, "thread"),
        (Wire.MESSAGES, _content({"type": "document", "source": {
            "type": "file", "file_id": "file_1"}}), "file_id"),
        (Wire.MESSAGES, _content({"type": "container_upload", "file_id": "f"}), "file_id"),
        (Wire.MESSAGES, {"user_profile_id": "up_1"}, "user_profile_id"),
    ],
)  # fmt: skip
def test_references_to_upstream_objects_are_refused_by_name(wire, extra, field):
    document = {**CHAT, **extra}
    found = refusal(wire, document)
    assert found.reason is Reason.OBJECT_REFERENCE_UNSUPPORTED
    assert f"`{field}`" in found.message[:100]
    assert field in read(wire, document, objects_allowed=True).object_references


def test_a_stored_item_that_reads_like_an_inline_one_is_refused_with_its_mend():
    summary = [{"type": "summary_text", "text": "t"}]
    item = {"type": "reasoning", "id": "rs_1", "summary": summary}
    found = refusal(Wire.RESPONSES, {**RESPONSES, "input": [item]})
    assert found.reason is Reason.OBJECT_REFERENCE_UNSUPPORTED
    assert "without its `id`" in found.remedy
    assert "`encrypted_content`" in found.remedy
    other = refusal(Wire.RESPONSES, {**RESPONSES, "previous_response_id": "resp_1"})
    assert "encrypted_content" not in other.remedy


@pytest.mark.parametrize(
    ("wire", "extra"),
    [
        (Wire.RESPONSES, {"previous_response_id": None, "conversation": None, "prompt": None}),
        (Wire.RESPONSES, {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}),
        (Wire.RESPONSES, {"tools": [{"type": "file_search", "vector_store_ids": []}]}),
        *((Wire.RESPONSES, {"input": [item]}) for item in (
            {"type": "reasoning", "summary": [], "encrypted_content": "e"},
            {"type": "reasoning", "id": None, "summary": [], "encrypted_content": "e"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]},
            {"type": "reasoning", "id": "", "content": [{"type": "reasoning_text", "text": "t"}]},
            {"type": "compaction", "id": "cmp_1", "encrypted_content": "e"},
            {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": ""},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "id": "fo_1", "call_id": "c", "output": ""},
            {"type": "custom_tool_call", "id": "ct_1", "call_id": "c", "name": "f", "input": "i"},
            {"type": "custom_tool_call_output", "id": "co_1", "call_id": "c", "output": "o"},
            {"type": "local_shell_call", "id": "ls_1", "call_id": "c", "action": {"a": "b"}},
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}},
            {"type": "image_generation_call", "id": "ig_1", "result": "AA=="},
            {"type": "message", "id": "msg_1", "role": "assistant", "content": []},
            {"type": "brand_new_item", "content": "x"},
        )),
        (Wire.RESPONSES, {"input": [{"id": "msg_1", "role": "user", "content": "hi"}]}),
        (Wire.MESSAGES, {"diagnostics": {"previous_message_id": None}}),
        (Wire.MESSAGES, {"metadata": {"user_id": "u"}}),
    ],
)  # fmt: skip
def test_nothing_stored_is_named_here(wire, extra):
    assert read(wire, {**CHAT, **extra}).object_references == ()


def test_background_waits_for_the_ledger():
    document = {**RESPONSES, "background": True}
    found = refusal(Wire.RESPONSES, document)
    assert found.reason is Reason.OBJECT_REFERENCE_UNSUPPORTED
    assert "`background`" in found.message
    assert read(Wire.RESPONSES, document, objects_allowed=True).background


@pytest.mark.parametrize(
    ("part", "fetched"),
    [
        ({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}, True),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}, False),
        ({"type": "input_image", "image_url": "http://169.254.169.254/"}, True),
        ({"type": "input_image", "image_url": "data:image/png;base64,AA=="}, False),
        ({"type": "input_file", "file_url": "https://x.example/a.pdf"}, True),
        ({"type": "image", "source": {"type": "url", "url": "https://x.example"}}, True),
        ({"type": "image", "source": {"type": "base64", "data": "AA=="}}, False),
        ({"type": "video_url", "video_url": {"url": "file:///etc/passwd"}}, True),
        ({"type": "text", "text": "https://x.example"}, False),
    ],
)
def test_an_address_that_the_provider_would_fetch_is_a_fact(part, fetched):
    assert read(Wire.CHAT, {**CHAT, **_content(part)}).remote_fetch is fetched


def test_a_remote_mcp_server_is_an_address():
    tools = [{"type": "mcp", "server_label": "l", "server_url": "https://x.example"}]
    assert read(Wire.RESPONSES, {**RESPONSES, "tools": tools}).remote_fetch


def test_k15_control_looking_fields_change_nothing():
    """Fields that other gateways obey are opaque here: same facts, and the document keeps them."""
    control = {
        "mock_response": "yes", "api_base": "https://evil.example", "api_key": "k",
        "custom_llm_provider": "x", "litellm_params": {"a": 1}, "user_config": {}, "caching": True,
        "proxy_server_request": {}, "no-log": True, "tags": ["vip"], "extra_body": {"a": 1},
        "extra_headers": {"x": "y"}, "safety_settings": [], "x-sluicegate-tier": 9, "tier": 3,
        "_sluicegate": {"effect": "allow"},
    }  # fmt: skip
    plain, body = read(Wire.CHAT, CHAT), read(Wire.CHAT, {**CHAT, **control})
    for field in (f for f in type(body).__slots__ if f != "document"):
        assert getattr(body, field) == getattr(plain, field), field
    assert body.document == {**CHAT, **control}


CANARY = "CANARYdeadbeef"


def _strings(document):
    """Every document that differs from this one by a canary in one string or one new key."""
    yield {**document, CANARY: CANARY}
    for key, value in document.items():
        if isinstance(value, str):
            if key != "model":
                yield {**document, key: CANARY}
        elif isinstance(value, dict):
            for changed in _strings(value):
                yield {**document, key: changed}
        elif isinstance(value, list):
            for position, item in enumerate(value):
                changes = _strings(item) if isinstance(item, dict) else [CANARY]
                for changed in changes:
                    yield {**document, key: [*value[:position], changed, *value[position + 1 :]]}


RICH = {
    "model": "m",
    "max_tokens": 10,
    "stream": True,
    "access_programs": {"cyber": "standard"},
    "safety_identifier": "s",
    "stop": ["a"],
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "t"},
                                     {"type": "image_url", "image_url": {"url": "https://x"}}]},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function",
                                              "function": {"name": "f", "arguments": "{}"}}]},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {
        "type": "object", "properties": {"p": {"type": "string"}}}}}],
    "metadata": {"k": "v"},
    "file_id": "",
    "conversation": None,
}  # fmt: skip


def test_k20_no_string_of_the_body_reaches_a_fact_or_a_refusal():
    """Model names apart, which are judged, and never recorded unless the catalogue holds them."""
    accepted, refused = 0, []
    for document in _strings(RICH):
        for extra in ({}, {"Stream": 1}, {"n": CANARY}, {CANARY: float("nan")}):
            raw = json.dumps({**document, **extra}).encode()
            try:
                body = read_request(Wire.CHAT, raw)
            except Refused as error:
                refused.append(repr(error.refusal))
                continue
            accepted += 1
            for field in (f for f in type(body).__slots__ if f != "document"):
                assert CANARY not in repr(getattr(body, field)), field
    assert accepted > 15
    assert len(refused) > 40
    assert not any(CANARY in words for words in refused)


@pytest.mark.parametrize(
    "document",
    [
        {"model": "m", "messages": {"a": 1}},
        {"model": "m", "messages": 3, "tools": "x", "input": None},
        {"model": "m", "tools": [1, None, "x", []]},
        {"model": "m", "messages": [{"type": ["tool_use"], "input": {"a": []}}]},
        {"model": "m", "mcp_servers": {"a": 1}},
        {"model": "m", "image_url": ["x"]},
    ],
)
@pytest.mark.parametrize("wire", [w for w in Wire if w is not Wire.MODELS])
def test_odd_shapes_are_the_providers_to_refuse(wire, document):
    assert read(wire, document).model == "m"


def test_more_tools_than_the_facts_can_count_are_refused_in_words():
    tools = [{"type": "function"}] * 10_000
    assert read(Wire.RESPONSES, {**RESPONSES, "tools": tools}).custom_tools == 10_000
    for extra in (
        {"tools": [*tools, {"type": "web_search"}]},
        {"tools": [*tools, {"type": "namespace", "tools": tools}]},
        {"mcp_servers": [{}] * 10_001},
    ):
        found = refusal(Wire.RESPONSES, {**RESPONSES, **extra})
        assert found.reason is Reason.REQUEST_INVALID
        assert "10000 tools" in found.message


def test_what_an_agent_says_of_its_own_threads_is_no_reference_to_an_upstream_object():
    # Codex 0.169 sends its own thread and turn ids in client_metadata, with store=false.
    body = json.dumps(
        {
            "model": "gpt-5.5",
            "input": [{"type": "message", "role": "user", "content": "hello"}],
            "store": False,
            "client_metadata": {"thread_id": "01a2", "session_id": "01a2", "model": "elsewhere"},
        }
    ).encode()
    parsed = read_request(Wire.RESPONSES, body)
    assert parsed.object_references == ()
    assert parsed.other_models == ()
