import CLinux
import Glibc

extension ProcessList {
    /// Whether a path leads a process to what it leads us to: one in a container is listed as well, and may have other
    /// files of the same names. Where nothing is there any more, or nobody may look at what the process sees, one in a
    /// process namespace of its own does not.
    static func sees(_ path: String, _ process: pid_t) -> Bool {
        let theirs = place("/proc/\(process)/root/")
        if let ours = place(path), theirs != nil { return place("/proc/\(process)/root\(path)") == ours }
        if let theirs, theirs != place("/") { return false }
        let numbers = text("/proc/\(process)/status")?.split(separator: "\n").first { $0.hasPrefix("NSpid:") }
        return (numbers?.split(whereSeparator: \.isWhitespace).count ?? 0) <= 2
    }

    private struct Place: Equatable {
        let device: dev_t
        let number: ino_t
    }

    private static func place(_ path: String) -> Place? {
        var status = stat()
        return stat(path, &status) == 0 ? Place(device: status.st_dev, number: status.st_ino) : nil
    }
}
