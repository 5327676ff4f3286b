// An echo server on java.nio.channels.Selector, as its documentation describes the loop.
// Documentation: https://docs.oracle.com/en/java/javase/17/docs/api/java.base/java/nio/channels/Selector.html
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;

public class EchoNio {
    public static void main(String[] arguments) throws IOException {
        var selector = Selector.open();
        var listener = ServerSocketChannel.open();
        listener.bind(new InetSocketAddress(arguments[0], Integer.parseInt(arguments[1])));
        listener.configureBlocking(false);
        listener.register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            for (var key : selector.selectedKeys()) {
                if (key.isAcceptable()) {
                    var client = listener.accept();
                    client.configureBlocking(false);
                    client.register(selector, SelectionKey.OP_READ, ByteBuffer.allocate(65536));
                } else {
                    echo(key, (SocketChannel) key.channel(), (ByteBuffer) key.attachment());
                }
            }
            selector.selectedKeys().clear();
        }
    }

    static void echo(SelectionKey key, SocketChannel client, ByteBuffer buffer) throws IOException {
        if (key.isReadable() && client.read(buffer) < 0) {
            client.close();
            return;
        }
        buffer.flip();
        client.write(buffer);
        buffer.compact(); // keeps what the socket did not take
        key.interestOps(buffer.position() == 0 ? SelectionKey.OP_READ : SelectionKey.OP_WRITE);
    }
}
