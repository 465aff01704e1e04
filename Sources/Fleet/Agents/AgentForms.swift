import CZlib
import Glibc
import MeshIdentity
import Platform
import Streams

/// A program's bytes in the forms in which they travel. Each is made when it is first asked for, and once, however many
/// devices it is for.
///
/// Where it comes from: a file that was built beside the program (`PROGRAM.HASH.zst`, scripts/build-static.sh), which
/// is smallest; the cache of an earlier run; or it is made now, by this machine's own zstd, or as gzip by zlib. xz
/// takes ten seconds to make, so that there is only what was built.
final class AgentForms: Sendable {
    private let path: String
    private let sha256: String
    private let plain: [UInt8]
    /// The directory of the cache; nil: there is none.
    private let cache: String?
    private let work = Lock<[UploadForm: Task<[UInt8]?, Never>]>([:])
    private let faulty = Lock<Set<UploadForm>>([])

    /// Beside this program's own release there may be one for another architecture, and the ones before.
    private static let cachedForms = 6

    init(path: String, sha256: String, plain: [UInt8], cache: String?) {
        (self.path, self.sha256, self.plain, self.cache) = (path, sha256, plain, cache)
    }

    /// The first of `forms` that there is; nil: there is none of them.
    ///
    /// - Parameter making: Whether one is made that there is not.
    func first(of forms: [UploadForm], making: Bool = true) async -> (form: UploadForm, bytes: [UInt8])? {
        let faulty = faulty.withLock { $0 }
        for form in forms where !faulty.contains(form) && (making || isThere(form)) {
            if let bytes = await bytes(form) { return (form, bytes) }
        }
        return nil
    }

    /// One that the program did not come out of on a device is sent to no other.
    ///
    /// - Returns: For people; nil: they have been told.
    func distrust(_ form: UploadForm, because fault: String) -> String? {
        guard faulty.withLock({ $0.insert(form).inserted }) else { return nil }
        let file = Self.built(form, of: path, sha256)
        let advice = access(file, F_OK) == 0 ? ". \(file) seems damaged: build it again, or remove it" : ""
        return "the agent did not come out of its \(form.rawValue) form, which is not sent any more: \(fault)\(advice)"
    }

    private func isThere(_ form: UploadForm) -> Bool {
        let files = [Self.built(form, of: path, sha256)] + (cache.map { [file(form, $0)] } ?? [])
        return files.contains { access($0, R_OK) == 0 }
    }

    private func bytes(_ form: UploadForm) async -> [UInt8]? {
        let task = work.withLock { work in
            if let task = work[form] { return task }
            let started = Task.detached { await self.make(form) }
            work[form] = started
            return started
        }
        return await task.value
    }

    private func make(_ form: UploadForm) async -> [UInt8]? {
        if let built = try? LocalFile.read(Self.built(form, of: path, sha256)), !built.isEmpty { return built }
        if let known = cached(form) { return known }
        let made: [UInt8]? =
            switch form {
            case .zstd: await Self.zstd(plain)
            case .gzip: Self.gzip(plain)
            case .xz: nil
            }
        if let made { remember(made, form) }
        return made
    }

    /// Its name tells of which program it is: what belongs to another build is not taken.
    static func built(_ form: UploadForm, of path: String, _ sha256: String) -> String {
        "\(path).\(sha256.prefix(12)).\(form.suffix)"
    }

    // MARK: Cache

    private func cached(_ form: UploadForm) -> [UInt8]? {
        guard let cache, let bytes = try? LocalFile.read(file(form, cache)), bytes.count > 32 else { return nil }
        // A disk may have damaged it; the device would notice only after all was sent.
        let (content, digest) = (Array(bytes.dropLast(32)), bytes.suffix(32))
        return Digest.sha256(content).elementsEqual(digest) ? content : nil
    }

    /// The cache is a help only: where it cannot be written, the next run compresses again.
    private func remember(_ bytes: [UInt8], _ form: UploadForm) {
        guard let cache, (try? AtomicFile.createDirectory(cache, mode: 0o700)) != nil else { return }
        try? AtomicFile.write(bytes + Digest.sha256(bytes), to: file(form, cache), mode: 0o600)
        forgetOldest(in: cache)
    }

    private func file(_ form: UploadForm, _ cache: String) -> String { "\(cache)/agent-\(sha256).\(form.suffix)" }

    private func forgetOldest(in cache: String) {
        guard let directory = opendir(cache) else { return }
        defer { closedir(directory) }
        var files: [(path: String, time: Int)] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            var status = stat()
            let path = "\(cache)/\(name)"
            if name.hasPrefix("agent-"), lstat(path, &status) == 0 { files.append((path, status.st_mtim.tv_sec)) }
        }
        for file in files.sorted(by: { $0.time > $1.time }).dropFirst(Self.cachedForms) { unlink(file.path) }
    }

    // MARK: Compression

    /// Level 9 of zstd takes 0.5 s for the agent and leaves 9.3 MB; the best level takes ten seconds.
    private static let zstdLevel = "-9"

    /// nil where there is no such program, or it does not do it.
    private static func zstd(_ plain: [UInt8]) async -> [UInt8]? {
        guard let program = Program.find("zstd") else { return nil }
        var run = ProgramRun(
            Program(
                program,
                ["zstd", "-q", zstdLevel, "-c"],
                environment: Program.currentEnvironment,
                group: .own
            ),
            timeout: .seconds(60),
            errors: .tail(0)
        )
        run.outputLimit = plain.count + 4096
        guard let outcome = try? await run.onThread(input: plain), outcome.status?.isSuccess == true,
            !outcome.isTooLong
        else { return nil }
        return outcome.output
    }

    /// Of the agent's 24.4 MB level 1 leaves 11.3, 4 leaves 10.7 (0.4 s) and 9 leaves 10.4 (1.9 s).
    private static let gzipLevel: Int32 = 4

    static func gzip(_ plain: [UInt8]) -> [UInt8] {
        var stream = z_stream()
        precondition(czlib_gzip_init(&stream, gzipLevel) == Z_OK, "zlib has no memory")
        defer { deflateEnd(&stream) }
        let bound = Int(deflateBound(&stream, UInt(plain.count)))
        return [UInt8](unsafeUninitializedCapacity: bound) { output, count in
            plain.withUnsafeBufferPointer { input in
                // zlib counts in 32 bits, and an agent is at most 1 GiB; it does not write to its input.
                stream.next_in = UnsafeMutablePointer(mutating: input.baseAddress)
                stream.avail_in = UInt32(input.count)
                stream.next_out = output.baseAddress
                stream.avail_out = UInt32(bound)
                let result = deflate(&stream, Z_FINISH)
                precondition(result == Z_STREAM_END, "the output has the size that zlib asked for")
                count = bound - Int(stream.avail_out)
            }
        }
    }
}
