// An echo server on node:net, as the Node.js documentation teaches it.
// Documentation: https://nodejs.org/api/net.html#netcreateserveroptions-connectionlistener
// Its example has a handler for errors of the server, and none for errors of a connection.
const net = require('node:net');

const server = net.createServer((connection) => {
  connection.pipe(connection);
});
server.on('error', (error) => {
  throw error;
});
server.listen(Number(process.argv[3]), process.argv[2]);
