import Glibc
import Platform

/// What the kernel knows of this process, under the names that Prometheus' own clients give it.
struct ProcessFigures: Sendable {
    let residentBytes: Int64?
    let virtualBytes: Int64?
    let openDescriptors: Int?
    let descriptorLimit: UInt64?
    let processorSeconds: Double?
    /// Since 1970.
    let startTime: Double?
    let threads: Int?

    /// Reads /proc, which does not wait for a disk.
    static func now() -> ProcessFigures {
        let memory = words("/proc/self/statm").compactMap { Int64($0) }
        let page = Int64(sysconf(Int32(_SC_PAGESIZE)))
        var limit = rlimit()
        let hasLimit = getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0
        // In microseconds, by POSIX.
        let used = clock()
        // The name of the program, in parentheses, may have spaces in it: fields count from the last one.
        let status = (try? LocalFile.read("/proc/self/stat")) ?? []
        let rest = String(decoding: status, as: UTF8.self).split(separator: ")").last?.split(separator: " ") ?? []
        let bootTime = lines("/proc/stat").first { $0.hasPrefix("btime ") }.flatMap { Double($0.dropFirst(6)) }
        let ticks = Double(sysconf(Int32(_SC_CLK_TCK)))
        let started = rest.count > 19 ? Double(rest[19]) : nil
        return ProcessFigures(
            residentBytes: memory.count > 1 ? memory[1] * page : nil,
            virtualBytes: memory.first.map { $0 * page },
            openDescriptors: countDescriptors(),
            descriptorLimit: hasLimit ? UInt64(limit.rlim_cur) : nil,
            processorSeconds: used < 0 ? nil : Double(used) / 1_000_000,
            startTime: bootTime.flatMap { boot in started.map { boot + $0 / ticks } },
            threads: rest.count > 17 ? Int(rest[17]) : nil
        )
    }

    private static func words(_ path: String) -> [Substring] {
        String(decoding: (try? LocalFile.read(path)) ?? [], as: UTF8.self).split(separator: " ")
    }

    private static func lines(_ path: String) -> [Substring] {
        String(decoding: (try? LocalFile.read(path)) ?? [], as: UTF8.self).split(separator: "\n")
    }

    private static func countDescriptors() -> Int? {
        guard let directory = opendir("/proc/self/fd") else { return nil }
        defer { closedir(directory) }
        var count = 0
        while readdir(directory) != nil { count += 1 }
        // `.`, `..` and the directory itself.
        return max(0, count - 3)
    }
}
