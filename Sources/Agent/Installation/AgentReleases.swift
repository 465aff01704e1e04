import CLinux
import Glibc
import MeshIdentity
import Platform

/// The releases beside the one that runs, and the link that says which is in use:
///
///     ROOT/current -> RELEASE      replaced by a rename
///     ROOT/RELEASE/bootstrap
///     ROOT/state/
struct AgentReleases {
    let root: String
    /// Of the program that runs.
    let own: String

    /// nil when the program is not one that `enroll` installed beside this state.
    init?(state: String, executable: String) {
        let (directory, name) = AtomicFile.split(executable)
        let (root, release) = AtomicFile.split(directory)
        guard name == "bootstrap", Self.isRelease(release), AtomicFile.split(state).directory == root else {
            return nil
        }
        self.root = root
        own = release
    }

    /// What a service starts.
    var program: String { "\(root)/current/bootstrap" }

    func program(of release: String) -> String { "\(root)/\(release)/bootstrap" }

    /// The release in use; nil when there is none, or it is gone.
    var current: String? {
        var target = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("\(root)/current", &target, target.count)
        guard count > 0 else { return nil }
        let release = String(decoding: target.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return Self.isRelease(release) && access(program(of: release), X_OK) == 0 ? release : nil
    }

    func use(_ release: String) throws(IdentityError) {
        guard current != release else { return }
        try fileWork(AtomicFile.replaceLink(at: "\(root)/current", target: release))
        try fileWork(AtomicFile.synchronize(directory: root))
    }

    /// Removes all but the two that are named and those that somebody may just be installing.
    ///
    /// - Returns: the releases that are gone.
    func removeOthers(keeping kept: [String?]) -> [String] {
        var removed: [String] = []
        for name in Self.superfluous(found, keeping: kept) {
            unlink(program(of: name))
            // With anything else in it, it is not ours alone.
            if rmdir("\(root)/\(name)") == 0 { removed.append(name) }
        }
        return removed
    }

    /// The directories beside each other, with the seconds since each was changed.
    private var found: [(name: String, age: Int)] {
        guard let directory = opendir(root) else { return [] }
        defer { closedir(directory) }
        var found: [(name: String, age: Int)] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { String(cString: $0) }
            }
            var status = stat()
            guard stat("\(root)/\(name)", &status) == 0, status.st_mode & S_IFMT == S_IFDIR else { continue }
            found.append((name, time(nil) - status.st_mtim.tv_sec))
        }
        return found
    }

    /// Which of those directories may go: releases that are not kept, and that nobody is just installing.
    static func superfluous(_ found: [(name: String, age: Int)], keeping kept: [String?]) -> [String] {
        found.filter { isRelease($0.name) && !kept.contains($0.name) && $0.age > installationLimit }.map(\.name)
            .sorted()
    }

    /// Seconds. Longer than there is between an upload and its use.
    static let installationLimit = 600

    /// `VERSION-SHA12`.
    static func isRelease(_ name: String) -> Bool {
        guard let dash = name.lastIndex(of: "-"), name.first?.isNumber == true else { return false }
        let hash = name[name.index(after: dash)...]
        return hash.utf8.count == 12 && hash.allSatisfy(\.isHexDigit) && !name.contains("/")
    }
}
