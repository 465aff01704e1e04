package import MeshDirectory
package import MeshIdentity
import MeshPolicy
import Platform

/// A directory that was verified, decoded, and holds.
package struct DirectoryInForce: Sendable {
    package let manifest: DirectoryManifest
    package private(set) var content: DirectoryContent
    /// Where it comes from, for people.
    package fileprivate(set) var source: String

    package var revision: Int64 { manifest.revision }

    /// Verifies and decodes.
    ///
    /// - Parameters:
    ///   - document: As it came.
    ///   - source: Where from, for messages.
    ///   - bundle: The roots of the own trust domain.
    ///   - previous: What holds now; nil: nothing.
    /// - Throws: ``DirectoryError``: all of it is refused.
    package init(
        _ document: SignedDirectory,
        from source: String,
        bundle: TrustBundle,
        after previous: DirectoryInForce? = nil
    ) throws(DirectoryError) {
        try document.verify(with: bundle, after: previous?.manifest)
        manifest = document.manifest
        self.source = source
        do throws(ConfigurationError) {
            content = try DirectoryContent(document, file: source, bundle: bundle, after: previous?.content)
        } catch {
            throw DirectoryError(.damaged, "\(error)")
        }
        guard let former = previous?.content.revocations else { return }
        // What was revoked stays so, whatever a list leaves out.
        guard
            content.writtenRevocations != previous?.content.writtenRevocations
                || !content.hasSameRoots(as: previous?.content)
        else {
            content.revocations = former
            return
        }
        let update = content.revocations.flatMap {
            try? RevocationListUpdate(of: former, with: $0, roots: bundle.roots)
        }
        content.revocations = update?.pem ?? former
    }

    /// Whom its holder trusts: its own bundle, with what else was revoked, and other domains'.
    func trust(beside own: TrustBundle) throws(IdentityError) -> TrustBundleSet {
        var own = own
        if let lists = content.revocations {
            let present = own.revocations.pem
            let update = try RevocationListUpdate(of: present.isEmpty ? nil : present, with: lists, roots: own.roots)
            own = try TrustBundle(trustDomain: own.trustDomain, roots: own.roots, revocationLists: update.pem)
        }
        var all = TrustBundleSet(own)
        for bundle in content.bundles where bundle.trustDomain != own.trustDomain { all.insert(bundle) }
        return all
    }
}

extension NodeConfiguration {
    /// What is in effect, and what the directory adds to it; nil where no file says it.
    package func inEffect(beside directory: DirectoryInForce?) -> String? {
        document.map { document in
            let added = directory.flatMap { force in
                force.content.document.map { ("\(force.source), revision \(force.revision)", $0) }
            }
            return EffectiveConfiguration.json(of: document, adding: added)
        }
    }

    /// The same, with what a directory adds: after its own, which win.
    package func adding(_ directory: DirectoryInForce?) -> NodeConfiguration {
        guard let content = directory?.content else { return self }
        var all = self
        all.endpoints += content.endpoints
        return all.addingPolicies(of: directory)
    }

    /// The same, without its endpoints: those are many, and stay where they are.
    func addingPolicies(of directory: DirectoryInForce?) -> NodeConfiguration {
        guard let policies = directory?.content.policies, !policies.isEmpty else { return self }
        var all = self
        all.policy = (policy ?? []) + policies
        return all
    }

    /// The file with what held last; nil: nowhere.
    ///
    /// - Parameter file: The configuration's; nil: a program made it.
    package func savedDirectory(beside file: String?) -> String? {
        guard let directory else { return nil }
        if let state = directory.state { return state }
        return file.map { "\(AtomicFile.split($0).directory)/directory.saved" }
    }

    /// What the directory says as far as it is known without asking anybody: its file, or what held last.
    ///
    /// - Parameters:
    ///   - file: The configuration's; nil: a program made it.
    ///   - bundle: The roots of the own trust domain.
    ///   - refused: Told what is not taken, and why.
    package func knownDirectory(
        beside file: String?,
        bundle: TrustBundle,
        refused: (String) -> Void
    ) -> DirectoryInForce? {
        guard let directory else { return nil }
        var known: DirectoryInForce?
        func take(_ path: String, _ source: String) {
            do throws(DirectoryError) {
                guard let document = try FileDirectory(path).read() else { return }
                // The directory's own file is named before the copy that a running node keeps of it.
                guard document.manifest != known?.manifest else {
                    known?.source = source
                    return
                }
                known = try DirectoryInForce(document, from: source, bundle: bundle, after: known)
            } catch {
                refused("\(source): \(error.message)")
            }
        }
        if let saved = savedDirectory(beside: file) { take(saved, "\(directory), as it was saved in \(saved)") }
        if case .file(let path) = directory.place { take(path, "\(directory)") }
        return known
    }
}
