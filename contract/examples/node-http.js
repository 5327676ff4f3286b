// An HTTP server on node:http, as the Node.js documentation teaches it.
// Documentation: https://nodejs.org/api/http.html
const http = require('node:http');

const server = http.createServer((request, response) => {
  response.writeHead(200, { 'Content-Type': 'text/plain' });
  response.end('hello\n');
});
server.listen(Number(process.argv[3]), process.argv[2]);
