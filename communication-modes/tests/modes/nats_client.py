"""What users of a NATS client do, with nats-py: python3 nats_client.py nats://HOST:PORT"""

import asyncio
import sys

import nats

PATIENCE = 25  # Seconds: on a busy machine it may be slow.


async def main(url):
    one = await nats.connect(url, allow_reconnect=False)
    two = await nats.connect(url, allow_reconnect=False, no_echo=True)

    news = await one.subscribe("news.>")
    await one.flush(PATIENCE)
    await two.publish("news.sport", b"2:1", reply="desk")
    await two.flush(PATIENCE)
    message = await news.next_msg(timeout=PATIENCE)
    assert (message.subject, message.data, message.reply) == ("news.sport", b"2:1", "desk")

    got = []

    async def work(message):
        got.append(message.data)

    await one.subscribe("jobs", queue="workers", cb=work)
    await two.subscribe("jobs", queue="workers", cb=work)
    await one.flush(PATIENCE)
    await two.flush(PATIENCE)
    third = await nats.connect(url, allow_reconnect=False)
    for number in range(100):
        await third.publish("jobs", str(number).encode())
    await third.flush(PATIENCE)
    await one.flush(PATIENCE)
    await two.flush(PATIENCE)
    while len(got) < 100:
        await asyncio.sleep(0.01)
    assert sorted(got, key=int) == [str(number).encode() for number in range(100)]

    async def double(message):
        await message.respond(message.data * 2)

    await one.subscribe("double", cb=double)
    await one.flush(PATIENCE)
    answer = await two.request("double", b"x" * 100_000, timeout=PATIENCE)
    assert answer.data == b"x" * 200_000

    first = asyncio.get_running_loop().create_future()

    async def keep(message):
        first.set_result(message.data)  # For a second one it would fail.

    short = await one.subscribe("short", cb=keep)
    await short.unsubscribe(limit=1)
    await one.flush(PATIENCE)
    await third.publish("short", b"1")
    await third.publish("short", b"2")
    await third.flush(PATIENCE)
    assert await asyncio.wait_for(first, PATIENCE) == b"1"

    for client in (one, two, third):
        await client.drain()


asyncio.run(main(sys.argv[1]))
