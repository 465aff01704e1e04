package import MeshDirectory
import MeshIdentity
import Platform

/// Has the mesh's directory say what the ledger does: which devices are reached by their names, and what the CA has
/// revoked.
package struct DirectoryPublication: Sendable {
    private let settings: DirectorySettings
    private let records: DeviceDirectory
    private let directory: String
    private let authority: LiveCA?

    /// Somebody else may write at the same time, and then it is done again.
    private static let attempts = 8

    /// - Parameters:
    ///   - settings: Where it is.
    ///   - records: Which devices there are.
    ///   - directory: The CA's, which the directory's key is beside.
    ///   - authority: That CA, where it is open: it makes a key where there is none that is good.
    package init(_ settings: DirectorySettings, records: DeviceDirectory, ca directory: String, authority: LiveCA?) {
        self.settings = settings
        self.records = records
        self.directory = directory
        self.authority = authority
    }

    /// - Returns: The revision that says it; nil: the directory said so already.
    package func callAsFunction() async throws(DirectoryError) -> Int64? {
        let store = DirectoryStore(settings)
        let memory = DirectoryMemory(of: settings, ca: directory)
        var last: DirectoryError?
        for _ in 0..<Self.attempts {
            let present = try await store.read()
            let signer: DirectorySigner
            let domain: TrustDomain
            let devices: [DirectoryText.Device]
            let lists: [UInt8]?
            do {
                let bundle = try EmbeddedCA.directoryBundle(directory: directory)
                domain = bundle.trustDomain
                let written = try memory.last(of: domain)
                if let present {
                    // A directory of another mesh, what nobody has signed, or an earlier copy is a person's matter.
                    // What was written here is known, also when the key that signed it was revoked meanwhile.
                    if present.manifest != written { try present.verify(with: bundle, after: written) }
                } else if let written {
                    throw DirectoryError(
                        .backwards,
                        "it is empty, and was at revision \(written.revision): somebody has wiped it; `bootstrap mesh put` writes it again"
                    )
                }
                signer = try self.signer()
                devices = try Self.devices(records.all())
                lists = try EmbeddedCA.revocationLists(directory: directory)
            } catch let error as DirectoryError {
                throw error
            } catch {
                throw DirectoryError(.damaged, "\(error)")
            }
            var text = DirectoryText(present?.content ?? [])
            try text.publish(devices, revocations: lists)
            let content = Array(text.text.utf8)
            let isSame = present?.content == content && present?.manifest.certificate == signer.certificate.der
            guard !isSame, present != nil || !content.isEmpty else { return nil }
            let document = try SignedDirectory(
                content: content,
                domain: domain,
                revision: max(WallClock.system.seconds, (present?.revision ?? 0) + 1),
                signer: signer
            )
            do throws(DirectoryError) {
                try await store.write(document, replacing: present.map { .manifest($0.manifest) } ?? .nothing)
                try memory.remember(document.manifest)
                return document.revision
            } catch {
                guard error.code == .conflict else { throw error }
                last = error
            }
        }
        throw last ?? DirectoryError(.conflict, "the directory changes all the time")
    }

    private func signer() throws(IdentityError) -> DirectorySigner {
        if let signer = try DirectorySigner.load(directory: directory) { return signer }
        guard let authority else {
            throw IdentityError(
                .notFound,
                "there is no key for the directory in \(directory) yet, or none that is good; `bootstrap mesh put`, `enroll` or `renew` makes one"
            )
        }
        return try authority.present().directorySigner()
    }

    /// Those that others reach by name: they have a node, and are trusted; and their names are those of hosts, each of
    /// one of them, and none that every machine has. A directory with any other would be refused.
    static func devices(_ records: [Device]) -> [DirectoryText.Device] {
        var names: Set<String> = []
        return records.sorted { $0.name < $1.name }.compactMap { record in
            guard record.revokedAt == nil, !record.agent.path.isEmpty, !record.hbone.isEmpty,
                let host = try? Authority(host: record.name, port: 1), !DirectoryText.isOwnName(host),
                names.insert(host.host).inserted
            else { return nil }
            return DirectoryText.Device(
                name: record.name,
                identity: record.identity.description,
                hbone: record.hbone.prefix(DirectoryText.mostAddresses).map(\.description)
            )
        }
    }
}
