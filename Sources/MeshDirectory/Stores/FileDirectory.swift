import Platform

/// A directory in a file, which is replaced whole.
package struct FileDirectory: Sendable {
    package let path: String
    /// How often it is looked whether the file is another: some system calls.
    private static let interval = Duration.milliseconds(200)

    package init(_ path: String) { self.path = path }

    package func read() throws(DirectoryError) -> SignedDirectory? {
        guard let bytes = try Self.bytes(of: path) else { return nil }
        do throws(DirectoryError) {
            return try SignedDirectory(file: bytes)
        } catch {
            throw DirectoryError(error.code, "\(path): \(error.message)")
        }
    }

    /// nil: there is no such file.
    package static func bytes(of path: String) throws(DirectoryError) -> [UInt8]? {
        do throws(LocalFile.Failure) {
            let limit = DirectoryManifest.maximumContent + DirectoryManifest.maximumLength
            return try LocalFile.read(path, limit: limit, allowsPipe: false)
        } catch {
            throw DirectoryError(.unreachable, "\(path) cannot be read: \(error.reason)")
        }
    }

    /// Compares manifests only: a person may have edited the content in its place, to put that.
    package func write(
        _ document: SignedDirectory,
        replacing previous: DirectoryStore.Previous
    ) throws(DirectoryError) {
        do throws(FileError) {
            let lock = try FileLock(directory: AtomicFile.split(path).directory, patience: .seconds(10))
            defer { withExtendedLifetime(lock) {} }
            let present = ((try? Self.bytes(of: path)) ?? nil).flatMap { try? DirectoryManifest(parsing: $0) }
            guard previous.allows(present?.bytes) else {
                throw FileError(.alreadyExists, DirectoryStore.conflict(present?.revision).message)
            }
            try AtomicFile.write(document.file, to: path)
        } catch {
            throw DirectoryError(error.code == .alreadyExists ? .conflict : .unreachable, error.message)
        }
    }

    func follow(_ tell: @Sendable (DirectoryStore.Event) async -> Void) async {
        var seen: FileStamp?
        repeat {
            // Before the file is read: what changes meanwhile is seen the next time.
            let stamp = FileStamp(of: [path])
            guard stamp != seen else { continue }
            seen = stamp
            do throws(DirectoryError) {
                let event: DirectoryStore.Event = try read().map { .document($0) } ?? .missing
                await tell(event)
            } catch {
                await tell(.failed(error))
            }
        } while (try? await Task.sleep(for: Self.interval)) != nil
    }
}
