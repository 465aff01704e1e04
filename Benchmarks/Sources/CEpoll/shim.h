// epoll, which Swift's Glibc overlay leaves out, and a socket option from after glibc's header.
#ifndef CEPOLL_SHIM_H
#define CEPOLL_SHIM_H

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static inline int cepoll_control(int poller, int operation, int descriptor, uint32_t events) {
    struct epoll_event event = {.events = events};
    event.data.fd = descriptor;
    return epoll_ctl(poller, operation, descriptor, &event);
}
static inline int cepoll_descriptor(const struct epoll_event *event) { return event->data.fd; }

// The port is chosen at connect() by the whole address pair, so that more than one port range is usable.
static inline int cepoll_bind_without_port(int descriptor) {
    int yes = 1;
    return setsockopt(descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
}

#endif
