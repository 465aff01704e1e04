// Linux interfaces that Swift's Glibc overlay leaves out: epoll, eventfd, original destination, socket options.
#ifndef CLINUX_SHIM_H
#define CLINUX_SHIM_H

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

// The two below are GNU extensions, which need _GNU_SOURCE where Swift's importer does not define it.
extern int accept4(int socket, struct sockaddr *address, socklen_t *length, int flags);
extern int pthread_setname_np(pthread_t thread, const char *name);

// A non-blocking, close-on-exec connection from a listening socket, or -1. `peer` gets its address.
static inline int clinux_accept(int socket, struct sockaddr_storage *peer) {
    socklen_t length = sizeof *peer;
    return accept4(socket, (struct sockaddr *)peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
}
static inline void clinux_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }

// EPOLLET is 1u << 31 inside an enum, which Swift imports as a signed value.
static inline uint32_t clinux_EPOLLIN(void) { return EPOLLIN; }
static inline uint32_t clinux_EPOLLOUT(void) { return EPOLLOUT; }
static inline uint32_t clinux_EPOLLRDHUP(void) { return EPOLLRDHUP; }
static inline uint32_t clinux_EPOLLHUP(void) { return EPOLLHUP; }
static inline uint32_t clinux_EPOLLERR(void) { return EPOLLERR; }
static inline uint32_t clinux_EPOLLET(void) { return EPOLLET; }

// The user data of an epoll event is a union; only the 64-bit view is used.
static inline struct epoll_event clinux_epoll_event(uint32_t events, uint64_t data) {
    struct epoll_event event = {.events = events};
    event.data.u64 = data;
    return event;
}
static inline uint64_t clinux_epoll_data(const struct epoll_event *event) { return event->data.u64; }

#endif
