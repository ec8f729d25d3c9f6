"""A backend: short answers at once, one that never ends, and one that counts what it is sent."""

import asyncio
import threading

SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def start():
    """Serves on a thread of its own; the port."""
    loop = asyncio.new_event_loop()
    serving = asyncio.start_server(serve, "127.0.0.1", 0)
    server = loop.run_until_complete(serving)
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return server.sockets[0].getsockname()[1]


async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"GET /app/stream "):
                await stream(writer)
            elif head.startswith(b"POST /app/upload "):
                await upload(reader, writer)
            else:
                writer.write(SHORT)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def stream(writer):
    writer.write(STREAM)
    number = 0
    while not writer.is_closing():
        line = b"%d\n" % number
        writer.write(b"%x\r\n%s\r\n" % (len(line), line))
        await writer.drain()
        await asyncio.sleep(0.05)
        number += 1


async def upload(reader, writer):
    total = 0
    while length := int(await reader.readline(), 16):
        await reader.readexactly(length + 2)
        total += length
    await reader.readline()
    text = b"%d" % total
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
