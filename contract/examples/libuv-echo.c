// An echo server on libuv, as its guide teaches it.
// Documentation: https://docs.libuv.org/en/v1.x/guide/networking.html
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

static void on_close(uv_handle_t *client) { free(client); }

static void allocate(uv_handle_t *client, size_t size, uv_buf_t *buffer) {
    *buffer = uv_buf_init(malloc(size), size);
}

static void on_written(uv_write_t *write, int status) {
    free(write->data);
    free(write);
}

static void on_read(uv_stream_t *client, ssize_t count, const uv_buf_t *buffer) {
    if (count > 0) {
        uv_write_t *write = malloc(sizeof *write);
        write->data = buffer->base;
        uv_buf_t output = uv_buf_init(buffer->base, count);
        uv_write(write, client, &output, 1, on_written);
        return;
    }
    free(buffer->base);
    if (count < 0)
        uv_close((uv_handle_t *)client, on_close);
}

static void on_connection(uv_stream_t *listener, int status) {
    if (status < 0)
        return (void)fprintf(stderr, "accept: %s\n", uv_strerror(status));
    uv_tcp_t *client = malloc(sizeof *client);
    uv_tcp_init(listener->loop, client);
    if (uv_accept(listener, (uv_stream_t *)client) == 0)
        uv_read_start((uv_stream_t *)client, allocate, on_read);
    else
        uv_close((uv_handle_t *)client, on_close);
}

int main(int count, char **arguments) {
    uv_tcp_t listener;
    struct sockaddr_in address;
    uv_ip4_addr(arguments[1], atoi(arguments[2]), &address);
    uv_tcp_init(uv_default_loop(), &listener);
    uv_tcp_bind(&listener, (const struct sockaddr *)&address, 0);
    int error = uv_listen((uv_stream_t *)&listener, 128, on_connection);
    if (error)
        return fprintf(stderr, "listen: %s\n", uv_strerror(error)), 1;
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
