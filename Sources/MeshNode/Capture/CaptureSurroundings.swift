import Glibc
package import Platform

/// What rules depend on beside the configuration.
package struct CaptureSurroundings: Hashable, Sendable {
    /// Where sshd listens, and 22; and where the node's own logins go.
    package var sshPorts: [UInt16] = [22]
    /// The name servers of resolv.conf(5).
    package var nameServers: [IPAddress] = []
    /// Where cgroup v2 is below /sys/fs/cgroup; on machines that have both versions it is not that directory itself.
    package var cgroupPrefix = ""
    /// Whether the kernel has IPv6.
    package var hasIPv6 = true

    package init() {}

    /// Those of this machine, and of the network namespace that this thread is in.
    package static func read(for configuration: NodeConfiguration) -> CaptureSurroundings {
        read(for: configuration, SSHPorts())
    }

    static func read(
        for configuration: NodeConfiguration,
        _ ssh: SSHPorts,
        resolver: String = "/etc/resolv.conf"
    ) -> CaptureSurroundings {
        var surroundings = CaptureSurroundings()
        surroundings.sshPorts = ssh.ofServers()
        for port in SSHPorts.ofLogins(configuration.endpoints) where !surroundings.sshPorts.contains(port) {
            surroundings.sshPorts.append(port)
        }
        surroundings.nameServers = nameServers(resolver)
        if access("/sys/fs/cgroup/cgroup.controllers", F_OK) != 0,
            access("/sys/fs/cgroup/unified/cgroup.controllers", F_OK) == 0
        {
            surroundings.cgroupPrefix = "unified/"
        }
        surroundings.hasIPv6 = !((try? LocalFile.read("/proc/thread-self/net/if_inet6")) ?? []).isEmpty
        return surroundings
    }

    /// In their order; one with a scope is left out.
    package static func nameServers(_ file: String) -> [IPAddress] {
        var servers: [IPAddress] = []
        for line in LocalFile.lines(of: ((try? LocalFile.read(file, limit: 1 << 20)) ?? nil) ?? []) {
            let words = line.text.split { $0 == " " || $0 == "\t" }
            guard words.count >= 2, words[0] == "nameserver", let address = IPAddress(words[1]),
                !servers.contains(address)
            else { continue }
            servers.append(address)
        }
        // resolv.conf(5): the server of this machine, where none is named.
        return servers.isEmpty ? [.loopbackIPv4] : servers
    }

    func directory(ofCgroup path: String) -> String { "/sys/fs/cgroup/\(cgroupPrefix)\(path)" }

    /// A packet of a program in this cgroup, or below it.
    func match(cgroup path: String) -> String {
        "socket cgroupv2 level \(path.split(separator: "/").count) \"\(cgroupPrefix)\(path)\""
    }
}
