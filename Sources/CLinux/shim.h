// Linux interfaces that Swift's Glibc overlay leaves out: epoll, eventfd, original destination, socket options.
#ifndef CLINUX_SHIM_H
#define CLINUX_SHIM_H

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

// The two below are GNU extensions, which need _GNU_SOURCE where Swift's importer does not define it.
extern int accept4(int socket, struct sockaddr *address, socklen_t *length, int flags);
extern int pthread_setname_np(pthread_t thread, const char *name);

// Gives memory back to the system that was freed and is kept for later (malloc_trim(3)). Takes milliseconds for each 100 MB.
static inline void clinux_trim_memory(void) { malloc_trim(0); }

// Lets the pages of the program's code go that were needed once, to start: what is called again is mapped again, from the page
// cache. Only what cannot have been written to; 64-bit programs only.
extern unsigned long getauxval(unsigned long type);
extern int madvise(void *address, size_t length, int advice);
static inline void clinux_forget_code(void) {
#if __SIZEOF_POINTER__ == 8
    const Elf64_Phdr *headers = (const Elf64_Phdr *)getauxval(AT_PHDR);
    size_t count = getauxval(AT_PHNUM), page = getauxval(AT_PAGESZ);
    if (!headers || !page) return;
    uintptr_t base = 0;
    for (size_t index = 0; index < count; index++)
        if (headers[index].p_type == PT_PHDR) base = (uintptr_t)headers - headers[index].p_vaddr;
    for (size_t index = 0; index < count; index++) {
        if (headers[index].p_type != PT_LOAD || (headers[index].p_flags & (PF_X | PF_W)) != PF_X) continue;
        uintptr_t start = (base + headers[index].p_vaddr) & ~(uintptr_t)(page - 1);
        uintptr_t end = base + headers[index].p_vaddr + headers[index].p_memsz;
        madvise((void *)start, end - start, 4 /* MADV_DONTNEED */);
    }
#endif
}

// A non-blocking, close-on-exec connection from a listening socket, or -1. `peer` gets its address.
static inline int clinux_accept(int socket, struct sockaddr_storage *peer) {
    socklen_t length = sizeof *peer;
    return accept4(socket, (struct sockaddr *)peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

// Passing a descriptor over a Unix socket (unix(7), SCM_RIGHTS): the CMSG_ macros are not visible to Swift. Both return what
// sendmsg(2) and recvmsg(2) do; a received descriptor is close-on-exec, -1 when none came. Should more than one come, the
// others are closed.
static inline ssize_t clinux_send_descriptor(int socket, const void *bytes, size_t length, int descriptor) {
    struct iovec vector = {.iov_base = (void *)bytes, .iov_len = length};
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control = {0};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    if (descriptor >= 0) {
        message.msg_control = control.space;
        message.msg_controllen = sizeof control.space;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}
static inline ssize_t clinux_receive_descriptor(int socket, void *bytes, size_t capacity, int *descriptor) {
    struct iovec vector = {.iov_base = bytes, .iov_len = capacity};
    union { struct cmsghdr header; char space[CMSG_SPACE(4 * sizeof(int))]; } control;
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.space,
                             .msg_controllen = sizeof control.space};
    *descriptor = -1;
    ssize_t count = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (count < 0) return count;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t received = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t index = 0; index < received; index++) {
            int value;
            memcpy(&value, CMSG_DATA(header) + index * sizeof(int), sizeof(int));
            if (*descriptor < 0) *descriptor = value; else close(value);
        }
    }
    return count;
}
// Datagrams with the address of this machine that they were sent to, and are answered from: a socket for every address would
// answer from another one (ip(7), IP_PKTINFO; ipv6(7), IPV6_PKTINFO, whose structures need _GNU_SOURCE). 0 or -1.
static inline int clinux_tell_own_address(int socket, int is_ipv6) {
    int on = 1;
    return is_ipv6 ? setsockopt(socket, IPPROTO_IPV6, 49 /* IPV6_RECVPKTINFO */, &on, sizeof on)
                   : setsockopt(socket, IPPROTO_IP, 8 /* IP_PKTINFO */, &on, sizeof on);
}
struct clinux_own_ipv4 { int interface; struct in_addr own, destination; };
struct clinux_own_ipv6 { struct in6_addr own; unsigned int interface; };
// As recvfrom(2). The family of `own` is 0 where the kernel does not tell.
static inline ssize_t clinux_receive_datagram(int socket, void *bytes, size_t capacity, struct sockaddr_storage *peer,
                                              struct sockaddr_storage *own) {
    struct iovec vector = {.iov_base = bytes, .iov_len = capacity};
    union { struct cmsghdr header; char space[CMSG_SPACE(64)]; } control;
    struct msghdr message = {.msg_name = peer, .msg_namelen = sizeof *peer, .msg_iov = &vector, .msg_iovlen = 1,
                             .msg_control = control.space, .msg_controllen = sizeof control.space};
    memset(own, 0, sizeof *own);
    ssize_t count = recvmsg(socket, &message, 0);
    if (count < 0) return count;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == 8) {
            struct clinux_own_ipv4 told;
            memcpy(&told, CMSG_DATA(header), sizeof told);
            struct sockaddr_in *v4 = (struct sockaddr_in *)own;
            v4->sin_family = AF_INET;
            v4->sin_addr = told.own;
        } else if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == 50) {
            struct clinux_own_ipv6 told;
            memcpy(&told, CMSG_DATA(header), sizeof told);
            struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)own;
            v6->sin6_family = AF_INET6;
            v6->sin6_addr = told.own;
        }
    }
    return count;
}
// As sendto(2), from the address `own` of this machine; NULL leaves that to the kernel.
static inline ssize_t clinux_send_datagram(int socket, const void *bytes, size_t length, const struct sockaddr *peer,
                                           socklen_t peer_length, const struct sockaddr *own) {
    struct iovec vector = {.iov_base = (void *)bytes, .iov_len = length};
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(struct clinux_own_ipv6))]; } control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {.msg_name = (void *)peer, .msg_namelen = peer_length, .msg_iov = &vector, .msg_iovlen = 1};
    if (own) {
        int is_ipv6 = own->sa_family == AF_INET6;
        size_t size = is_ipv6 ? sizeof(struct clinux_own_ipv6) : sizeof(struct clinux_own_ipv4);
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(size);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = is_ipv6 ? IPPROTO_IPV6 : IPPROTO_IP;
        header->cmsg_type = is_ipv6 ? 50 : 8;
        header->cmsg_len = CMSG_LEN(size);
        if (is_ipv6) {
            struct clinux_own_ipv6 told = {.own = ((const struct sockaddr_in6 *)own)->sin6_addr};
            memcpy(CMSG_DATA(header), &told, size);
        } else {
            struct clinux_own_ipv4 told = {.own = ((const struct sockaddr_in *)own)->sin_addr};
            memcpy(CMSG_DATA(header), &told, size);
        }
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}
// Who is at the other end of a Unix socket (SO_PEERCRED): 0 or -1.
static inline int clinux_peer_credentials(int socket, int *process, unsigned int *user) {
    int values[3];  // struct ucred, a GNU extension: pid, uid, gid
    socklen_t length = sizeof values;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, values, &length) != 0) return -1;
    *process = values[0];
    *user = (unsigned int)values[1];
    return 0;
}
// How a program is started. The three descriptors are above 2; no other is handed on.
struct clinux_program {
    const char *path;
    char *const *arguments;
    char *const *environment;
    int input, output, errors;
    // 0: in the caller's process group, so that it may ask at the terminal. 1: in a group of its own. 2: in a session of its own.
    int group;
    // Sent to it when the calling thread ends; 0: nothing is. posix_spawn(3) cannot arrange that, nor closed descriptors.
    int death_signal;
};
extern pid_t vfork(void);
extern long syscall(long number, ...);
// Their headers would make this module the owner of types that Swift finds in Glibc.
extern int prctl(int option, ...);
extern pid_t waitpid(pid_t process, int *status, int options);
// Starts it with default signals, none of them blocked. Returns its process number, or -1 with errno.
static inline pid_t clinux_spawn(const struct clinux_program *program) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    pid_t parent = getpid();
    volatile int failure = 0;
    // The child borrows this memory until it has begun the program: it sees no handler of ours, and writes nothing else.
    pid_t child = vfork();
    if (child == 0) {
        struct sigaction action = {.sa_handler = SIG_DFL};
        for (int number = 1; number <= 64; number++) sigaction(number, &action, NULL);
        dup2(program->input, 0);
        dup2(program->output, 1);
        dup2(program->errors, 2);
        // close_range(2), of Linux 5.9: also what was opened without O_CLOEXEC stays here. Before it that flag must do.
        syscall(436, 3U, ~0U, 0U);
        if (program->group == 1) setpgid(0, 0);
        if (program->group == 2) setsid();
        if (program->death_signal) prctl(1 /* PR_SET_PDEATHSIG */, program->death_signal);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        // The parent may have ended before its death could be told.
        if (!program->death_signal || getppid() == parent) execve(program->path, program->arguments, program->environment);
        failure = errno;
        _exit(127);
    }
    int number = child < 0 ? errno : failure;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (child > 0 && number != 0) {
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
        child = -1;
    }
    errno = number;
    return child;
}
// Goes on when the process that has started it ends, whatever that has asked for (clinux_program.death_signal).
static inline void clinux_outlive_parent(void) { prctl(1 /* PR_SET_PDEATHSIG */, 0UL, 0UL, 0UL, 0UL); }
// No core dump of this process, and no debugger of the same user: 0 or -1 (prctl(2), PR_SET_DUMPABLE).
static inline int clinux_hide_memory(void) { return prctl(4, 0UL, 0UL, 0UL, 0UL); }
// A descriptor that becomes readable when the child ends (pidfd_open(2), Linux 5.3); close-on-exec. -1 with errno before that.
static inline int clinux_pidfd_open(pid_t process) { return (int)syscall(434, process, 0U); }
// Close-on-exec from the start, so that a child that another thread starts meanwhile does not inherit them.
extern int pipe2(int descriptors[2], int flags);
static inline int clinux_pipe(int descriptors[2]) { return pipe2(descriptors, O_CLOEXEC); }
// Processors that the scheduler may run this process on, at most 1024 are counted; cpu_set_t needs _GNU_SOURCE.
#ifndef _GNU_SOURCE
extern int sched_getaffinity(pid_t process, size_t size, void *set);
#endif
static inline int clinux_available_processors(void) {
    unsigned long set[1024 / (8 * sizeof(unsigned long))] = {0};
    if (sched_getaffinity(0, sizeof set, (void *)set) < 0) return (int)sysconf(_SC_NPROCESSORS_ONLN);
    int count = 0;
    for (size_t index = 0; index < sizeof set / sizeof set[0]; index++) count += __builtin_popcountl(set[index]);
    return count;
}
// Takes the calling thread into another network namespace (setns(2), CLONE_NEWNET): 0 or -1.
extern int setns(int descriptor, int type);
static inline int clinux_enter_network(int descriptor) { return setns(descriptor, 0x40000000); }
// Hears of changes of interfaces, addresses and routes (rtnetlink(7)); its header is not there for every C library. Close-on-exec,
// non-blocking; -1 with errno.
struct clinux_netlink_address { unsigned short family, padding; uint32_t port, groups; };
static inline int clinux_watch_network(void) {
    int descriptor = socket(16 /* AF_NETLINK */, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0 /* NETLINK_ROUTE */);
    if (descriptor < 0) return -1;
    // RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE.
    struct clinux_netlink_address address = {.family = 16, .groups = 0x1 | 0x10 | 0x40 | 0x100 | 0x400};
    if (bind(descriptor, (const struct sockaddr *)&address, sizeof address) == 0) return descriptor;
    int number = errno;
    close(descriptor);
    errno = number;
    return -1;
}
// As recv(2). `is_kernels` is 0 for what another process has sent.
static inline ssize_t clinux_receive_netlink(int socket, void *bytes, size_t capacity, int *is_kernels) {
    struct clinux_netlink_address address = {0};
    socklen_t length = sizeof address;
    ssize_t count = recvfrom(socket, bytes, capacity, 0, (struct sockaddr *)&address, &length);
    *is_kernels = length == sizeof address && address.port == 0;
    return count;
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
