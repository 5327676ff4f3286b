// An echo server on java.net.ServerSocket, with a thread per client, as the Java tutorial teaches it.
// Documentation: https://docs.oracle.com/javase/tutorial/networking/sockets/clientServer.html
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;

public class EchoBlocking {
    public static void main(String[] arguments) throws IOException {
        var address = InetAddress.getByName(arguments[0]);
        try (var listener = new ServerSocket(Integer.parseInt(arguments[1]), 50, address)) {
            while (true) {
                var client = listener.accept();
                new Thread(() -> echo(client)).start();
            }
        }
    }

    static void echo(Socket client) {
        try (client) {
            client.getInputStream().transferTo(client.getOutputStream());
        } catch (IOException error) {
            System.err.println(error);
        }
    }
}
