import Glibc

/// A node holds a descriptor for each stream: the soft limit of 1,024, which is there for programs that call select(2),
/// goes up to the hard one.
func raiseDescriptorLimit() {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0, limit.rlim_cur < limit.rlim_max else {
        return
    }
    limit.rlim_cur = limit.rlim_max
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}

/// What a command needs at least: its event loops, the pipes of a program that it starts, a connection, a few files.
private let neededDescriptors = 16

/// Why this process cannot do its work, where it may not have the descriptors for it; nil where it can. Some of them
/// are needed where nothing can be said any more.
func missingDescriptors() -> String? {
    var taken: [Int32] = []
    defer { for descriptor in taken { close(descriptor) } }
    while taken.count < neededDescriptors {
        let descriptor = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else {
            var limit = rlimit()
            getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            return "this process may have \(limit.rlim_cur) files open, and needs \(neededDescriptors - taken.count) "
                + "more: raise the limit (ulimit -n 1024)"
        }
        taken.append(descriptor)
    }
    return nil
}
