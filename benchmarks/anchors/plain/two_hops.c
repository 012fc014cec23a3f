/* A TCP proxy without anything: one thread, epoll, a copy of each byte. Two of them, one behind the
 * other, are what two machines' worth of sockets cost when nothing is encrypted (bench: two_hops).
 *
 *   two_hops PORT TARGET_PORT    both on loopback; prints "ready"
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static int peer[65536];
static char buffer[65536];

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void watch(int queue, int socket)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = socket};
    int on = 1;
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    epoll_ctl(queue, EPOLL_CTL_ADD, socket, &event);
}

static void take(int queue, int listener, int target)
{
    struct sockaddr_in to = loopback(target);
    int client = accept(listener, 0, 0);
    int server = socket(AF_INET, SOCK_STREAM, 0);
    if (client < 0 || server < 0 || connect(server, (void *)&to, sizeof to)) {
        close(client);
        close(server);
        return;
    }
    peer[client] = server;
    peer[server] = client;
    watch(queue, client);
    watch(queue, server);
}

static void end(int socket)
{
    int other = peer[socket];
    peer[socket] = peer[other] = 0;
    close(other);
    close(socket);
}

/* A socket that takes no more blocks all of them: the load is one stream, or answers that fit. */
static void carry(int from)
{
    ssize_t got, sent = 0;
    /* Its other end was closed a moment ago. */
    if (!peer[from])
        return;
    got = read(from, buffer, sizeof buffer);
    if (got <= 0) {
        end(from);
        return;
    }
    while (sent < got) {
        ssize_t count = write(peer[from], buffer + sent, got - sent);
        if (count <= 0) {
            end(from);
            return;
        }
        sent += count;
    }
}

int main(int count, char **words)
{
    struct epoll_event events[256];
    struct sockaddr_in at;
    int on = 1, queue = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM, 0);
    if (count != 3)
        return 2;
    /* A client that is gone is an error of write. */
    signal(SIGPIPE, SIG_IGN);
    at = loopback(atoi(words[1]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 1024))
        return 3;
    watch(queue, listener);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int found = epoll_wait(queue, events, 256, -1);
        for (int i = 0; i < found; i++) {
            if (events[i].data.fd == listener)
                take(queue, listener, atoi(words[2]));
            else
                carry(events[i].data.fd);
        }
    }
}
