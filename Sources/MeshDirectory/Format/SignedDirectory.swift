package import MeshIdentity
import Platform

/// What a mesh's directory says at one revision: its content, and the manifest that vouches for each byte of it.
package struct SignedDirectory: Hashable, Sendable {
    package let manifest: DirectoryManifest
    /// YAML (`docs/directory.md`).
    package let content: [UInt8]

    package var revision: Int64 { manifest.revision }

    /// As it is in a file: the manifest, and the content below it.
    package var file: [UInt8] { manifest.bytes + content }

    /// Signs `content`.
    package init(
        content: [UInt8],
        domain: TrustDomain,
        revision: Int64,
        time: Int64 = WallClock.system.seconds,
        signer: DirectorySigner
    ) throws(DirectoryError) {
        guard content.count <= DirectoryManifest.maximumContent else { throw DirectoryManifest.tooLarge }
        guard revision <= DirectoryManifest.maximumRevision else {
            throw DirectoryError(.limit, "there is no revision after \(DirectoryManifest.maximumRevision)")
        }
        let parts = DirectoryPieces.cut(content).map {
            DirectoryManifest.Part(hash: hexadecimal(Digest.sha256(Array($0))), length: $0.count)
        }
        guard parts.count <= DirectoryManifest.maximumParts else { throw DirectoryManifest.tooLarge }
        do throws(IdentityError) {
            manifest = try DirectoryManifest(
                domain: domain.name,
                revision: revision,
                time: time,
                parts: parts,
                signer: signer
            )
        } catch {
            throw DirectoryError(.unsigned, error.message)
        }
        self.content = content
    }

    /// Reads a file.
    ///
    /// - Throws: ``DirectoryError``: there is no manifest, or the content is not what it says. Nobody has verified the
    ///   signature yet: ``verify(with:after:at:)``.
    package init(file bytes: [UInt8]) throws(DirectoryError) {
        let manifest = try DirectoryManifest(parsing: bytes)
        let content = Array(bytes[manifest.bytes.count...])
        guard content.count == manifest.contentLength else {
            throw DirectoryError(
                .unsigned,
                "its content was changed after it was signed: it has \(content.count) bytes, and \(manifest.contentLength) were signed; "
                    + "`bootstrap mesh put --replace FILE` signs what is to hold"
            )
        }
        var place = 0
        for part in manifest.parts {
            let piece = Array(content[place..<place + part.length])
            guard hexadecimal(Digest.sha256(piece)) == part.hash else {
                throw DirectoryError(
                    .unsigned,
                    "its content was changed after it was signed; `bootstrap mesh put --replace FILE` signs what is to hold"
                )
            }
            place += part.length
        }
        (self.manifest, self.content) = (manifest, content)
    }

    /// Puts it together from pieces whose hashes were checked.
    ///
    /// - Parameter pieces: By their hashes.
    /// - Throws: ``DirectoryError`` with `damaged` when one is missing.
    package init(_ manifest: DirectoryManifest, pieces: [String: [UInt8]]) throws(DirectoryError) {
        var content: [UInt8] = []
        content.reserveCapacity(manifest.contentLength)
        for part in manifest.parts {
            guard let piece = pieces[part.hash], piece.count == part.length else {
                throw DirectoryError(.damaged, "a part of it is missing (\(part.hash.prefix(16))…)")
            }
            content += piece
        }
        (self.manifest, self.content) = (manifest, content)
    }

    /// Its pieces, in their order.
    package var pieces: [(hash: String, bytes: [UInt8])] {
        var place = 0
        return manifest.parts.map { part in
            defer { place += part.length }
            return (part.hash, Array(content[place..<place + part.length]))
        }
    }

    /// Whether it may hold after `previous`.
    ///
    /// - Parameters:
    ///   - bundle: The roots of the own trust domain.
    ///   - previous: What holds now; nil: nothing yet.
    ///   - now: Seconds since 1970; nil is the clock.
    /// - Throws: ``DirectoryError`` with `foreign`, `unsigned` or `backwards`.
    package func verify(
        with bundle: TrustBundle,
        after previous: DirectoryManifest?,
        at now: Int64? = nil
    ) throws(DirectoryError) {
        try manifest.verify(with: bundle, at: now)
        try manifest.check(after: previous)
    }
}
