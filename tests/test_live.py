from __future__ import annotations

import asyncio
import json

from tests.fakes.live import Live, connected


async def test_an_echo_is_heard_and_seen(live: Live) -> None:
    async with connected(live) as peer:
        assert "H264" in peer.answer
        reply = await live.post("/human", sessionid=peer.sessionid, type="echo", text="Hello there", interrupt=False)
        assert reply == {"code": 0, "msg": "ok", "data": "ok"}
        await asyncio.sleep(2)
        kinds = [json.loads(event)["event"] for event in peer.events]
        print(
            kinds,
            len(peer.pictures),
            len(peer.sounds),
            max(s[2] for s in peer.sounds),
            max(p[2] for p in peer.pictures),
        )
        assert kinds[:2] == ["speak-start", "sentence"] and kinds[-1] == "speak-end"
        assert max(rms for _, _, rms in peer.sounds) > 0.2
        assert max(light for _, _, light in peer.pictures) > 200
