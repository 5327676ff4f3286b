"""An echo server on asyncio, with streams, as the Python documentation teaches it.

Documentation: https://docs.python.org/3/library/asyncio-stream.html
"""

import asyncio
import sys


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()  # waits while the client does not read
    writer.close()
    await writer.wait_closed()


async def main(host, port):
    server = await asyncio.start_server(echo, host, port)
    async with server:
        await server.serve_forever()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
