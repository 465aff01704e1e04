import Glibc
package import Platform

/// What rules depend on beside the configuration.
package struct CaptureSurroundings: Hashable, Sendable {
    /// Where sshd listens, and 22.
    package var sshPorts: [UInt16] = [22]
    /// The name servers of resolv.conf(5).
    package var nameServers: [IPAddress] = []
    /// Where cgroup v2 is below /sys/fs/cgroup; on machines that have both versions it is not that directory itself.
    package var cgroupPrefix = ""
    /// Whether the kernel has IPv6.
    package var hasIPv6 = true

    package init() {}

    /// Those of this machine, and of the network namespace that this thread is in.
    package static func read(
        sshd: String = "/etc/ssh/sshd_config",
        resolver: String = "/etc/resolv.conf"
    ) -> CaptureSurroundings {
        var surroundings = CaptureSurroundings()
        for port in ports(ofSSHD: sshd) where !surroundings.sshPorts.contains(port) {
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

    /// `Port` and the ports of `ListenAddress`, of the file and of those in the directory beside it that it includes.
    private static func ports(ofSSHD file: String) -> [UInt16] {
        var files = [file]
        let directory = file + ".d"
        if let handle = opendir(directory) {
            defer { closedir(handle) }
            while let entry = readdir(handle) {
                let name = withUnsafePointer(to: entry.pointee.d_name) {
                    $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                }
                if name.hasSuffix(".conf") { files.append("\(directory)/\(name)") }
            }
        }
        var ports: [UInt16] = []
        for file in files {
            for line in LocalFile.lines(of: ((try? LocalFile.read(file, limit: 1 << 20)) ?? nil) ?? []) {
                let words = line.text.split { $0 == " " || $0 == "\t" || $0 == "=" }
                guard words.count >= 2 else { continue }
                switch words[0].lowercased() {
                case "port": ports += [UInt16(words[1])].compactMap { $0 }
                case "listenaddress":
                    // Without brackets, more than one colon is an IPv6 address alone.
                    let isAddressAlone = !words[1].contains("]") && words[1].filter { $0 == ":" }.count > 1
                    guard !isAddressAlone, let colon = words[1].lastIndex(of: ":") else { continue }
                    ports += [UInt16(words[1][words[1].index(after: colon)...])].compactMap { $0 }
                default: continue
                }
            }
        }
        return ports.filter { $0 > 0 }
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

    /// A packet of a program in this cgroup, or below it.
    func match(cgroup path: String) -> String {
        "socket cgroupv2 level \(path.split(separator: "/").count) \"\(cgroupPrefix)\(path)\""
    }
}
