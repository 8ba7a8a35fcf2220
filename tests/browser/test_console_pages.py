"""The console in a real Chromium: the walk that a reviewer and an approver make, axe on every page,
and the screenshots of the documentation."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.support import raw
from tests.support.gate import APPROVER, REVIEWER, ROOT, Gate
from tests.support.speaking import TARGETS, body_for, provider
from tests.support.staff import link
from tests.support.upstream import Upstream

pytestmark = [pytest.mark.asyncio, pytest.mark.needs("chromium")]

PICTURES = ROOT / "docs" / "screenshots"
KEEP = os.environ.get("SLUICEGATE_TEST_SCREENSHOTS") == "write"
"""``SLUICEGATE_TEST_SCREENSHOTS=write`` makes those of the documentation anew."""


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    upstream = Upstream(provider)
    await upstream.start()
    running = Gate(tmp_path, upstream.url, {})
    await running.start()
    try:
        await running.organisation()
        for member, name, fields in (
            ("red", "Rhea Red", {}),
            ("blue", "Blaise Blue", {"cyber": 2}),
            ("newcomer", "Nico Newcomer", {"cyber": 0}),
            ("rita", "Rita Reviewer", {"cyber": 0, "roles": ["reviewer", "auditor"]}),
            ("anton", "Anton Approver", {"cyber": 0, "roles": ["approver"]}),
        ):
            await running.member(member, **fields)
            await running.set("member", member, name=name)
        for key, model, times in (
            ("red-1", "mythos-5", 6),
            ("blue-1", "mythos-5", 3),
            ("newcomer-1", "mythos-5", 2),
            ("newcomer-1", "opus-4.8", 2),
        ):
            for _ in range(times):
                await raw.call(
                    running.port,
                    TARGETS["messages"],
                    body_for("messages", model),
                    key=running.keys[key],
                )
        yield running
    finally:
        await running.stop()
        await upstream.stop()


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-background-networking"],
        )
        yield browser
        await browser.close()


class Person:
    """One of the staff with a browser of his own; notes whatever the browser complains of."""

    def __init__(self, context: BrowserContext, page: Page) -> None:
        self.context, self.page = context, page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type == "error" else None,
        )

    async def looked_at(self, name: str) -> None:
        """Nothing serious for axe, in light and in dark; a picture for the documentation."""
        for scheme in ("light", "dark"):
            await self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            found = await Axe().run(self.page)
            bad = [
                (each["id"], [node["html"] for node in each["nodes"]][:3])
                for each in found.response["violations"]
                if each["impact"] in {"serious", "critical"}
            ]
            assert not bad, (name, scheme, bad)
        await self.page.emulate_media(color_scheme="light")
        if KEEP:
            PICTURES.mkdir(exist_ok=True)
            await self.page.screenshot(path=PICTURES / f"{name}.png")
        assert not self.complaints, (name, self.complaints)


async def signed_in(
    gate: Gate, chromium: Browser, member: str, *, script: bool = True, look: bool = True
) -> Person:
    context = await chromium.new_context(
        viewport={"width": 1280, "height": 800}, java_script_enabled=script
    )
    person = Person(context, await context.new_page())
    await person.page.goto(await link(gate, member))
    if look:
        await person.looked_at("sign-in")
    await person.page.get_by_role("button", name="Sign in").click()
    await expect(person.page.get_by_role("heading", level=1)).to_be_visible()
    return person


async def test_a_denial_is_triaged_proved_taken_along_and_content_opened_by_two(  # noqa: PLR0915
    gate: Gate, chromium: Browser, tmp_path: Path
) -> None:
    rita = await signed_in(gate, chromium, "rita")
    page = rita.page
    await rita.looked_at("me")

    await page.get_by_role("link", name="Desk").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(
        "What was refused, and was that right?"
    )
    await rita.looked_at("desk")
    # By keyboard alone: to the first row and into it.
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("in one run")
    await page.goto(f"{gate.console_url}/desk")
    await page.get_by_role("link", name="newcomer", exact=True).click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("newcomer")
    await rita.looked_at("run")

    await page.locator("a.open").first.click()
    await expect(page.locator(".proof.good")).to_have_count(1)
    await expect(page.locator(".proof.good")).to_contain_text("proved")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("was refused")
    await rita.looked_at("record")

    await page.get_by_role("link", name="Why was that decided?").click()
    await expect(page.get_by_text("The same comes out: deny")).to_be_visible()
    await rita.looked_at("explain")
    await page.go_back()

    await page.get_by_role("link", name="the run it belongs to").click()
    await page.get_by_label("the rules did what they should").check()
    await page.get_by_role("button", name="Settle").click()
    await expect(page.get_by_text("resolved")).to_be_visible()
    await page.goto(f"{gate.console_url}/desk")
    await expect(page.get_by_role("link", name="newcomer", exact=True)).to_have_count(0)

    # What she takes along proves itself with another program and the public key alone.
    red = (await gate.recorded("access.intent"))[0]
    await page.goto(f"{gate.console_url}/records/data-0/{red['seq']}")
    saved = []
    for name in ("raw bytes", "Receipt (tlog-proof)"):
        async with page.expect_download() as coming:
            await page.get_by_role("link", name=name).click()
        download = await coming.value
        saved.append(tmp_path / download.suggested_filename)
        await download.save_as(saved[-1])
    key = gate.state.vkeys()["data-0"]
    checked = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "gateway.cli", "audit", "check", saved[1], saved[0], "--key", key],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert checked.returncode == 0, checked.stderr + checked.stdout

    # Into a case, and asked for.
    await page.get_by_role("link", name="the run it belongs to").click()
    await page.get_by_label("What is wrong").fill("the same prompt six times")
    await page.get_by_role("button", name="Put it into the case").click()
    await rita.looked_at("case")
    await page.goto(f"{gate.console_url}/records/data-0/{red['seq']}")
    await page.get_by_label("Why it has to be read").fill("whether it stays in scope")
    await page.get_by_role("button", name="Ask another person").click()
    await expect(page.get_by_text("waiting")).to_be_visible()
    where = page.url

    anton = await signed_in(gate, chromium, "anton", look=False)
    await anton.page.get_by_role("link", name="Approvals").click()
    await anton.looked_at("approvals")
    await anton.page.locator("a.open").first.click()
    await anton.looked_at("approval")
    await anton.page.get_by_label("The approver's key").fill(APPROVER.text)
    await anton.page.get_by_role("button", name=re.compile("Let .* read it")).click()
    await expect(anton.page.get_by_text("approved", exact=True)).to_be_visible()

    await page.goto(where)
    await page.get_by_label("The reviewer's key").fill(REVIEWER.text)
    await page.get_by_role("button", name="Open the request").click()
    await expect(page.locator("pre.raw")).to_contain_text('"messages"')
    await rita.looked_at("revealed")
    assert len(gate.records("content.revealed")) == 1

    await page.goto(f"{gate.console_url}/search?q=effect%3Ddeny")
    await rita.looked_at("search")
    await page.goto(f"{gate.console_url}/search?q=colour%3Dred")
    await expect(page.get_by_role("alert")).to_contain_text("there is no filter")
    for each in (rita, anton):
        await each.context.close()


async def test_without_script_the_same_work_is_done(gate: Gate, chromium: Browser) -> None:
    rita = await signed_in(gate, chromium, "rita", script=False, look=False)
    page = rita.page
    await page.goto(f"{gate.console_url}/desk")
    await page.get_by_role("link", name="newcomer", exact=True).click()
    await page.get_by_label("a fault of ours").check()
    await page.get_by_label("Why", exact=True).fill("the tier was given too late")
    await page.get_by_role("button", name="Settle").click()
    await expect(page.get_by_text("the tier was given too late")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await page.goto(f"{gate.console_url}/desk")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("This gateway is")
    await rita.context.close()


async def test_a_narrow_screen_scrolls_no_page_sideways(gate: Gate, chromium: Browser) -> None:
    rita = await signed_in(gate, chromium, "rita", look=False)
    await rita.page.set_viewport_size({"width": 390, "height": 800})
    for path in ("/desk", "/search?q=effect%3Ddeny", "/records/data-0/2", "/cases", "/approvals"):
        await rita.page.goto(gate.console_url + path)
        wide = await rita.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, (path, wide)
    await rita.context.close()
