import CLinux
import Glibc
import Platform

/// What a service manager is told (sd_notify(3), `Type=notify`): datagrams to the Unix socket that `NOTIFY_SOCKET`
/// names. Without the variable, nothing.
struct ServiceNotification: Sendable {
    /// Of the socket; an abstract one begins with `@`.
    private let address: String?

    /// What this process was started with. The variable is gone then: what is started from here on is not the service.
    static let ofThisProcess: ServiceNotification = {
        defer { unsetenv(variable) }
        return ServiceNotification(getenv(variable).map { String(cString: $0) })
    }()

    private static let variable = "NOTIFY_SOCKET"

    /// Reads the environment, at the start of the process.
    static func takeOver() { _ = ofThisProcess }

    private init(_ address: String?) {
        self.address = address.flatMap { $0.hasPrefix("/") || $0.hasPrefix("@") ? $0 : nil }
    }

    /// It does what it is there for.
    func ready(_ status: String) { send("READY=1\nMAINPID=\(getpid())\nSTATUS=\(Self.line(status))") }

    func status(_ text: String) { send("STATUS=\(Self.line(text))") }

    /// ``ready(_:)`` follows.
    func reloading() {
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        send("RELOADING=1\nMONOTONIC_USEC=\(Int64(now.tv_sec) * 1_000_000 + Int64(now.tv_nsec) / 1000)")
    }

    func stopping() { send("STOPPING=1") }

    private static func line(_ text: String) -> String {
        Printable.cleanText(text).split(separator: "\n").joined(separator: " ")
    }

    /// Nobody depends on it: what cannot be sent at once is not sent.
    private func send(_ text: String) {
        guard let address else { return }
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        var path = Array(address.utf8)
        guard path.count < MemoryLayout.size(ofValue: name.sun_path) else { return }
        if path[0] == UInt8(ascii: "@") { path[0] = 0 }
        withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: path) }
        let length = socklen_t(MemoryLayout<sa_family_t>.size + path.count)
        let type = Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue)
        let descriptor = socket(AF_UNIX, type, 0)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        let bytes = Array(text.utf8)
        withUnsafePointer(to: &name) { name in
            name.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = sendto(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL), $0, length)
            }
        }
    }
}
