"""What users of a NATS client do, with nats-py: python3 nats_client.py nats://HOST:PORT"""

import asyncio
import sys

import nats

PATIENCE = 25  # Seconds: on a busy machine it may be slow.


async def settle(client):
    """Waits until the server has done all that was asked.

    nats-py writes the PING of a flush ahead of what is still pending: the second comes after it.
    """
    await client.flush(PATIENCE)
    await client.flush(PATIENCE)


async def main(url):
    one = await nats.connect(url, allow_reconnect=False)
    two = await nats.connect(url, allow_reconnect=False, no_echo=True)

    news = await one.subscribe("news.>")
    await settle(one)
    await two.publish("news.sport", b"2:1", reply="desk")
    await settle(two)
    message = await news.next_msg(timeout=PATIENCE)
    assert (message.subject, message.data, message.reply) == ("news.sport", b"2:1", "desk")

    got = []

    async def work(message):
        got.append(message.data)

    await one.subscribe("jobs", queue="workers", cb=work)
    await two.subscribe("jobs", queue="workers", cb=work)
    await settle(one)
    await settle(two)
    third = await nats.connect(url, allow_reconnect=False)
    for number in range(100):
        await third.publish("jobs", str(number).encode())
    await settle(third)
    await settle(one)
    await settle(two)
    while len(got) < 100:
        await asyncio.sleep(0.01)
    assert sorted(got, key=int) == [str(number).encode() for number in range(100)]

    async def double(message):
        await message.respond(message.data * 2)

    await one.subscribe("double", cb=double)
    await settle(one)
    answer = await two.request("double", b"x" * 100_000, timeout=PATIENCE)
    assert answer.data == b"x" * 200_000

    first = asyncio.get_running_loop().create_future()

    async def keep(message):
        first.set_result(message.data)  # For a second one it would fail.

    short = await one.subscribe("short", cb=keep)
    await short.unsubscribe(limit=1)
    await settle(one)
    await third.publish("short", b"1")
    await third.publish("short", b"2")
    await settle(third)
    assert await asyncio.wait_for(first, PATIENCE) == b"1"

    for client in (one, two, third):
        await client.drain()


asyncio.run(main(sys.argv[1]))
