"""An HTTP server on http.server, as the Python documentation teaches it.

Documentation: https://docs.python.org/3/library/http.server.html, which says that it is not for
production. By default it speaks HTTP/1.0 and closes each connection after one response.
"""

import http.server
import sys


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"hello\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


address = (sys.argv[1], int(sys.argv[2]))
http.server.ThreadingHTTPServer(address, Hello).serve_forever()
