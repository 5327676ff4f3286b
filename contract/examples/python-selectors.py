"""An echo server on selectors, as the Python documentation teaches it.

Documentation: https://docs.python.org/3/library/selectors.html. Its example sends with a single
call, and its comment says that it hopes that the call does not block.
"""

import selectors
import socket
import sys

selector = selectors.DefaultSelector()


def accept(listener):
    connection, _ = listener.accept()
    connection.setblocking(False)
    selector.register(connection, selectors.EVENT_READ, read)


def read(connection):
    data = connection.recv(65536)
    if data:
        connection.send(data)
    else:
        selector.unregister(connection)
        connection.close()


listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen(100)
listener.setblocking(False)
selector.register(listener, selectors.EVENT_READ, accept)
while True:
    for key, _ in selector.select():
        key.data(key.fileobj)
