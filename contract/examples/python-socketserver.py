"""An echo server on socketserver, with a thread per client, as the Python documentation teaches it.

Documentation: https://docs.python.org/3/library/socketserver.html
"""

import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True


with Server((sys.argv[1], int(sys.argv[2])), Echo) as server:
    server.serve_forever()
