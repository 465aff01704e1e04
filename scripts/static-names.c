// The C library's name service as it is in the static binary: absent.
//
// glibc's loads modules (nsswitch.conf) into a static program, which end it by a signal where they are those of another
// build, and on many systems also where they are not. Names are looked up by c-ares and accounts in /etc/passwd, both
// with the help of getent(1). Some libraries that are linked mention these functions in code that is never called:
// OpenSSL's BIO sockets, c-ares' service names, FoundationEssentials' owners of files. They find what is here, which
// knows nothing, so that nothing of glibc's is linked; scripts/build-static.sh checks it.
#include <errno.h>
#include <grp.h>
#include <math.h>
#include <netdb.h>
#include <pwd.h>
#include <stddef.h>

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    (void)name, (void)service, (void)hints;
    *result = NULL;
    return EAI_FAIL;
}
void freeaddrinfo(struct addrinfo *list) { (void)list; }
const char *gai_strerror(int code) { return (void)code, "this program does not look names up with getaddrinfo"; }
int getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t host_length, char *service,
                socklen_t service_length, int flags) {
    (void)address, (void)length, (void)host, (void)host_length, (void)service, (void)service_length, (void)flags;
    return EAI_FAIL;
}
struct hostent *gethostbyname(const char *name) { return (void)name, NULL; }
struct servent *getservbyname(const char *name, const char *protocol) { return (void)name, (void)protocol, NULL; }

int getservbyport_r(int port, const char *protocol, struct servent *entry, char *buffer, size_t length,
                    struct servent **result) {
    (void)port, (void)protocol, (void)entry, (void)buffer, (void)length;
    *result = NULL;
    return ENOENT;
}

int getpwnam_r(const char *name, struct passwd *entry, char *buffer, size_t length, struct passwd **result) {
    (void)name, (void)entry, (void)buffer, (void)length;
    *result = NULL;
    return ENOENT;
}
int getpwuid_r(uid_t user, struct passwd *entry, char *buffer, size_t length, struct passwd **result) {
    (void)user, (void)entry, (void)buffer, (void)length;
    *result = NULL;
    return ENOENT;
}
int getgrnam_r(const char *name, struct group *entry, char *buffer, size_t length, struct group **result) {
    (void)name, (void)entry, (void)buffer, (void)length;
    *result = NULL;
    return ENOENT;
}
int getgrgid_r(gid_t group, struct group *entry, char *buffer, size_t length, struct group **result) {
    (void)group, (void)entry, (void)buffer, (void)length;
    *result = NULL;
    return ENOENT;
}

// What glibc calls them itself, for a `~` of glob(3), which is not asked for.
int __getpwnam_r(const char *name, struct passwd *entry, char *buffer, size_t length, struct passwd **result)
    __attribute__((alias("getpwnam_r")));
int __getpwuid_r(uid_t user, struct passwd *entry, char *buffer, size_t length, struct passwd **result)
    __attribute__((alias("getpwuid_r")));

// SQLite's SQL functions of trigonometry, which no statement of ours calls, and the tables of the C library's: 300 KB.
double sin(double x) { return (void)x, NAN; }
double cos(double x) { return (void)x, NAN; }
double tan(double x) { return (void)x, NAN; }
double asin(double x) { return (void)x, NAN; }
double acos(double x) { return (void)x, NAN; }
double atan(double x) { return (void)x, NAN; }
double atan2(double y, double x) { return (void)y, (void)x, NAN; }
