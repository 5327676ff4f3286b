"""What users of a NATS client do, with nats-py: python3 nats_client.py nats://HOST:PORT"""

import asyncio
import sys

import nats

TIMEOUT = 25  # seconds: a busy machine may be slow


async def settle(client):
    """Waits until the server has done everything that was sent.

    nats-py writes the PING of a flush ahead of output that is still pending. The second PING comes
    after it.
    """
    await client.flush(TIMEOUT)
    await client.flush(TIMEOUT)


async def main(url):
    one = await nats.connect(url, allow_reconnect=False)
    two = await nats.connect(url, allow_reconnect=False, no_echo=True)

    scores = await one.subscribe("sport.>")
    await settle(one)
    await two.publish("sport.chess", b"2:1", reply="desk")
    await settle(two)
    message = await scores.next_msg(timeout=TIMEOUT)
    assert (message.subject, message.data, message.reply) == ("sport.chess", b"2:1", "desk")

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
    answer = await two.request("double", b"x" * 100_000, timeout=TIMEOUT)
    assert answer.data == b"x" * 200_000

    first = asyncio.get_running_loop().create_future()

    async def keep(message):
        first.set_result(message.data)  # fails for a second message

    short = await one.subscribe("short", cb=keep)
    await short.unsubscribe(limit=1)
    await settle(one)
    await third.publish("short", b"1")
    await third.publish("short", b"2")
    await settle(third)
    assert await asyncio.wait_for(first, TIMEOUT) == b"1"

    # An invalid subject is an error in pedantic mode only, and this client is not pedantic.
    await third.publish("a..b", b"x")
    await settle(third)
    assert third.is_connected and third.last_error is None

    for client in (one, two, third):
        await client.drain()


asyncio.run(main(sys.argv[1]))
