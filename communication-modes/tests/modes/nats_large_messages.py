"""Forty messages of 1 MiB for a subscriber that reads: python3 nats_large_messages.py nats://HOST:PORT"""

import asyncio
import sys

import nats

TIMEOUT = 60  # seconds: a busy machine may be slow


async def main(url):
    # The client's own limit on messages that it has not handled yet is 128 MiB.
    reader = await nats.connect(url, allow_reconnect=False)
    writer = await nats.connect(url, allow_reconnect=False)
    subscription = await reader.subscribe("large")
    await reader.flush(TIMEOUT)
    await reader.flush(TIMEOUT)
    payload = b"x" * (1 << 20)

    async def write():
        for _ in range(40):
            await writer.publish("large", payload)
        await writer.flush(TIMEOUT)

    writing = asyncio.create_task(write())
    for number in range(40):
        message = await subscription.next_msg(timeout=TIMEOUT)
        assert message.data == payload, number
    await writing
    await reader.drain()
    await writer.drain()


asyncio.run(main(sys.argv[1]))
