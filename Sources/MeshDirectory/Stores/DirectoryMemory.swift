import Glibc
package import MeshIdentity
import Platform

/// What the operator's commands have written last to a directory, beside the CA that vouches for it.
///
/// Commands sign anew what they find, with what they have to add. A signature alone does not say that it is the last:
/// without this, whoever owns the file or etcd could put an earlier copy back, and have it signed as the newest.
package struct DirectoryMemory: Sendable {
    private let path: String

    /// - Parameters:
    ///   - settings: Where the directory is. There may be several of one CA, each with its own.
    ///   - directory: The CA's.
    package init(of settings: DirectorySettings, ca directory: String) {
        let place =
            switch settings.place {
            case .file(let path): "file \(Self.absolute(path))"
            // Members come and go.
            case .etcd(let etcd): "etcd \(etcd.prefix)"
            }
        path = "\(directory)/directory-seen-\(hexadecimal(Digest.sha256(Array(place.utf8))).prefix(16))"
    }

    private static func absolute(_ path: String) -> String {
        let (directory, name) = AtomicFile.split(path)
        guard let resolved = realpath(directory, nil) else { return path }
        defer { free(resolved) }
        return "\(String(cString: resolved))/\(name)"
    }

    /// The head of what was written last; nil: nothing of this mesh was.
    package func last(of domain: TrustDomain) throws(DirectoryError) -> DirectoryManifest? {
        let contents: [UInt8]?
        do throws(LocalFile.Failure) {
            contents = try LocalFile.read(path, limit: DirectoryManifest.maximumLength, allowsPipe: false)
        } catch {
            throw DirectoryError(.damaged, "\(path) cannot be read: \(error.reason)")
        }
        guard let bytes = contents else { return nil }
        do throws(DirectoryError) {
            let manifest = try DirectoryManifest(parsing: bytes)
            return manifest.domain == domain.name ? manifest : nil
        } catch {
            throw DirectoryError(
                .damaged,
                "\(path), which says what was written last, is damaged: `bootstrap mesh put --replace` writes a new one"
            )
        }
    }

    /// After it was written.
    package func remember(_ manifest: DirectoryManifest) throws(DirectoryError) {
        do throws(FileError) {
            try AtomicFile.write(manifest.bytes, to: path, mode: 0o600)
        } catch {
            throw DirectoryError(
                .damaged,
                "revision \(manifest.revision) was written, but that cannot be remembered: \(error.message)"
            )
        }
    }
}
