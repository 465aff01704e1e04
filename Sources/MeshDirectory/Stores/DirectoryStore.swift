import Platform

/// Where a directory is read from, written to and watched.
package enum DirectoryStore: Sendable {
    case file(FileDirectory)
    case etcd(EtcdDirectory)

    package init(_ settings: DirectorySettings) {
        self =
            switch settings.place {
            case .file(let path): .file(FileDirectory(path))
            case .etcd(let etcd): .etcd(EtcdDirectory(etcd))
            }
    }

    /// What whoever follows a store is told.
    package enum Event: Sendable {
        /// It says this now. Nobody has verified it.
        case document(SignedDirectory)
        /// There is nothing.
        case missing
        /// It could not be read; it is tried again.
        case failed(DirectoryError)
    }

    /// What it says now, which nobody has verified; nil: nothing.
    package func read() async throws(DirectoryError) -> SignedDirectory? {
        switch self {
        case .file(let file): try file.read()
        case .etcd(let etcd): try await etcd.read()
        }
    }

    /// What has to be there when something is written.
    package enum Previous: Sendable {
        /// Nothing.
        case nothing
        /// This, whatever became of the content below it.
        case manifest(DirectoryManifest)
        /// Anything, also what nobody has signed.
        case anything

        func allows(_ present: [UInt8]?) -> Bool {
            switch self {
            case .nothing: present == nil
            case .manifest(let manifest): present == manifest.bytes
            case .anything: true
            }
        }
    }

    /// Replaces what it says.
    ///
    /// - Parameters:
    ///   - document: What it is to say.
    ///   - previous: What it says now.
    /// - Throws: ``DirectoryError`` with `conflict` when it says something else meanwhile; nothing was written then.
    package func write(
        _ document: SignedDirectory,
        replacing previous: Previous
    ) async throws(DirectoryError) {
        switch self {
        case .file(let file): try file.write(document, replacing: previous)
        case .etcd(let etcd): try await etcd.write(document, replacing: previous)
        }
    }

    /// Tells what it says, and each change, until the task is cancelled.
    package func follow(_ tell: @Sendable (Event) async -> Void) async {
        switch self {
        case .file(let file): await file.follow(tell)
        case .etcd(let etcd): await etcd.follow(tell)
        }
    }

    static func conflict(_ revision: Int64?) -> DirectoryError {
        let now = revision.map { "it is at revision \($0) now" } ?? "it is gone"
        return DirectoryError(
            .conflict,
            "the directory was changed meanwhile (\(now)), and nothing was written: `bootstrap mesh get` it again, make your "
                + "change there, and put that"
        )
    }
}
