"""A real archive: SeaweedFS, whose S3 service enforces Object Lock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sysconfig
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

from gateway.audit.s3 import Credentials, Request, signed
from gateway.egress import Answer, Egress, EgressFailed
from tests.support.gate import free_ports

ACCESS_KEY = "AKIDOFTHEGATEWAY"
SECRET = "secret-of-the-archive-0123456789"
REGION = "us-east-1"
BUCKET = "record"
WHO = Credentials(ACCESS_KEY, SECRET, REGION)
XML = "{http://s3.amazonaws.com/doc/2006-03-01/}"


@dataclass
class Archive:
    """The service, asked with signed requests."""

    port: int
    egress: Egress

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        query: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        host = f"127.0.0.1:{self.port}"
        request = Request(method, host, path, headers or {}, body, query)
        url = self.url + path + (f"?{urlencode(query)}" if query else "")
        sent = signed(request, WHO, datetime.now(UTC))
        return await self.egress.request(method, url, body or None, sent, max_bytes=1 << 26)

    async def bucket(self, name: str = BUCKET, *, locked: bool = True) -> None:
        lock = {"x-amz-bucket-object-lock-enabled": "true"} if locked else {}
        assert (await self.ask("PUT", f"/{name}", headers=lock)).status == 200

    async def versions(self, bucket: str = BUCKET) -> list[tuple[str, str]]:
        """Key and version of everything there."""
        answer = await self.ask("GET", f"/{bucket}", query=[("versions", "")])
        assert answer.status == 200, answer
        return [
            (each.findtext("Key") or each.findtext(f"{XML}Key") or "", _version(each))
            for each in ET.fromstring(answer.body)
            if each.tag.endswith("Version")
        ]

    async def get(self, key: str, bucket: str = BUCKET) -> bytes:
        answer = await self.ask("GET", f"/{bucket}/{key}")
        assert answer.status == 200, answer
        return answer.body


def _version(each: ET.Element) -> str:
    return each.findtext("VersionId") or each.findtext(f"{XML}VersionId") or ""


@contextlib.asynccontextmanager
async def running_archive(directory: Path) -> AsyncIterator[Archive]:
    """The service, empty, in a directory that is there; mark the test with ``needs("weed")``."""
    master, volume, filer, s3, *grpc = free_ports(8)
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {
        "name": "gateway",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET}],
        "actions": actions,
    }
    (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (directory / "volumes").mkdir()
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(Path(sysconfig.get_path("scripts"), "weed")),
            *("server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={directory / 'volumes'}"),
            *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
            *(f"-master.port.grpc={grpc[0]}", f"-volume.port.grpc={grpc[1]}"),
            *(f"-filer.port.grpc={grpc[2]}", f"-s3.port.grpc={grpc[3]}"),
            *("-s3", f"-s3.port={s3}", f"-s3.config={directory / 's3.json'}"),
            *("-volume.max=8", "-master.volumeSizeLimitMB=64"),
            stdout=log,
            stderr=log,
            cwd=directory,
        )
    egress = Egress(["127.0.0.1/32"], timeout_s=10.0)
    archive = Archive(s3, egress)
    try:
        async with asyncio.timeout(60):
            while True:
                assert process.returncode is None, (directory / "log").read_text()[-2000:]
                with contextlib.suppress(EgressFailed):
                    if (await archive.ask("GET", "/")).status == 200:
                        break
                await asyncio.sleep(0.2)
        yield archive
    finally:
        await egress.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()  # it takes its time to end in order
        await process.wait()
