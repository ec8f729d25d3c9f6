"""A backend: short answers at once, one that never ends, one that counts what it is sent, and a WebSocket
that says everything back."""

import asyncio
import base64
import hashlib
import re
import threading

SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: %s\r\n\r\n"


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
                await stream(writer, b"application/octet-stream")
            elif head.startswith(b"GET /app/stream?events "):
                await stream(writer, b"text/event-stream")
            elif head.startswith(b"POST /app/upload "):
                await upload(reader, writer)
            elif head.startswith(b"GET /app/socket "):
                await socket(head, reader, writer)
                return
            else:
                writer.write(SHORT)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def stream(writer, kind):
    writer.write(STREAM % kind)
    number = 0
    while not writer.is_closing():
        line = b"%d\n" % number
        writer.write(b"%x\r\n%s\r\n" % (len(line), line))
        await writer.drain()
        await asyncio.sleep(0.05)
        number += 1


async def socket(head, reader, writer):
    key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)[1]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                 b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    while piece := await reader.read(4096):
        writer.write(piece)
        await writer.drain()


async def upload(reader, writer):
    total = 0
    while length := int(await reader.readline(), 16):
        await reader.readexactly(length + 2)
        total += length
    await reader.readline()
    text = b"%d" % total
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
