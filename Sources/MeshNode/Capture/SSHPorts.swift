import Glibc
import Platform
import SSHSignal

/// The ports of SSH, which are never captured: whoever has to repair this machine comes in by them, and the node itself
/// reaches others by them.
struct SSHPorts {
    /// sshd_config(5); what stands in the directory beside it counts, too.
    var configuration = "/etc/ssh/sshd_config"
    /// Where systemd's units are: its socket may listen in sshd's place.
    var units = [
        "/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator", "/usr/local/lib/systemd/system",
        "/usr/lib/systemd/system", "/lib/systemd/system",
    ]
    /// proc(5): whatever a running sshd was told, it listens where it listens.
    var processes = "/proc"

    /// 22 first; each once.
    func ofServers() -> [UInt16] {
        var ports: [UInt16] = [22]
        for port in configured + activated + listening where port > 0 && !ports.contains(port) { ports.append(port) }
        return ports
    }

    /// Those that logins go to: of each destination, or of the first host on the way there, as the SSH client's
    /// configuration has it for this user. One that does not resolve is the node's to report.
    static func ofLogins(_ endpoints: [NodeConfiguration.Endpoint]) -> [UInt16] {
        endpoints.compactMap(\.ssh).compactMap { access -> UInt16? in
            var arguments = SSHArguments(configurationFile: access.config)
            var destination = access.destination
            var port = destination.port
            // Each hop may have one before it; ssh itself refuses a circle.
            for _ in 0..<8 {
                let found = try? SSHClientConfiguration(resolving: destination, arguments: arguments)
                guard let resolved = found else { break }
                port = resolved.port
                guard let hop = resolved.proxyJump.first else { break }
                (destination, arguments) = (hop, arguments.forJumpHosts)
            }
            return port
        }
    }

    /// `Port` and the ports of `ListenAddress`.
    private var configured: [UInt16] {
        ([configuration] + Self.files(in: configuration + ".d", endingWith: ".conf")).flatMap { file in
            Self.lines(of: file).flatMap { words -> [UInt16] in
                guard words.count >= 2 else { return [] }
                switch words[0].lowercased() {
                case "port": return [UInt16(words[1])].compactMap { $0 }
                case "listenaddress":
                    // Without brackets, more than one colon is an IPv6 address alone.
                    let isAddressAlone = !words[1].contains("]") && words[1].filter { $0 == ":" }.count > 1
                    guard !isAddressAlone, let colon = words[1].lastIndex(of: ":") else { return [] }
                    return [UInt16(words[1][words[1].index(after: colon)...])].compactMap { $0 }
                default: return []
                }
            }
        }
    }

    /// `ListenStream` of ssh.socket and sshd.socket: a port, or an address and a port.
    private var activated: [UInt16] {
        let names = units.flatMap { ["\($0)/ssh.socket", "\($0)/sshd.socket"] }
        let files = names.flatMap { [$0] + Self.files(in: $0 + ".d", endingWith: ".conf") }
        return files.flatMap { file in
            Self.lines(of: file).compactMap { words -> UInt16? in
                guard words.count >= 2, words[0] == "ListenStream" else { return nil }
                return words[1].split(separator: ":").last.flatMap { UInt16($0) }
            }
        }
    }

    /// Where anybody listens over TCP in this network namespace, by the socket's inode.
    var sockets: [String: UInt16] {
        var ports: [String: UInt16] = [:]
        for table in ["tcp", "tcp6"] {
            // sl, local address, remote address, state, …, inode: 0A is LISTEN.
            for words in Self.lines(of: "\(processes)/thread-self/net/\(table)") {
                guard words.count > 9, words[3] == "0A" else { continue }
                ports[words[9]] = words[1].split(separator: ":").last.flatMap { UInt16($0, radix: 16) }
            }
        }
        return ports
    }

    /// Where processes called sshd listen in this network namespace. Only root sees those of others.
    private var listening: [UInt16] {
        let ports = sockets
        guard !ports.isEmpty else { return [] }
        var found: [UInt16] = []
        for process in Self.entries(of: processes) where process.utf8.allSatisfy({ (48...57).contains($0) }) {
            guard Self.lines(of: "\(processes)/\(process)/comm").first?.first == "sshd" else { continue }
            for descriptor in Self.entries(of: "\(processes)/\(process)/fd") {
                var target = [CChar](repeating: 0, count: 64)
                let count = readlink("\(processes)/\(process)/fd/\(descriptor)", &target, target.count)
                let bytes = target.prefix(max(0, count)).map { UInt8(bitPattern: $0) }
                let text = String(decoding: bytes, as: UTF8.self)
                guard text.hasPrefix("socket:["), text.hasSuffix("]") else { continue }
                if let port = ports[String(text.dropFirst(8).dropLast())] { found.append(port) }
            }
        }
        return found.sorted()
    }

    // MARK: Files

    /// The words of each line that is no comment; a file that is not there has none.
    private static func lines(of file: String) -> [[String]] {
        LocalFile.lines(of: (try? LocalFile.read(file)) ?? []).map { line in
            let words = line.text.split { $0 == " " || $0 == "\t" || $0 == "=" }.map { String($0) }
            return words.first?.hasPrefix("#") == true ? [] : words
        }
    }

    private static func files(in directory: String, endingWith end: String) -> [String] {
        entries(of: directory).filter { $0.hasSuffix(end) }.map { "\(directory)/\($0)" }
    }

    private static func entries(of directory: String) -> [String] {
        guard let handle = opendir(directory) else { return [] }
        defer { closedir(handle) }
        var names: [String] = []
        while let entry = readdir(handle) {
            let name = withUnsafePointer(to: entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }
}
