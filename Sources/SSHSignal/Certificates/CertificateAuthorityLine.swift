package import MeshIdentity

/// A line of known_hosts that trusts a CA for the host certificates of some hosts, and no others.
package struct CertificateAuthorityLine: Hashable, Sendable {
    /// The file, absolute; nil where the configuration has none (`UserKnownHostsFile none`).
    package let file: String?
    /// Without its end.
    package let text: String
    private let names: [String]
    private let isPattern: Bool
    private let authority: HostKey?

    /// - Parameters:
    ///   - authority: The CA's key for hosts.
    ///   - principals: What the certificate is good for: the names of the host.
    ///   - patterns: What the line says in their place: names and patterns with commas.
    ///   - login: Whose port and known_hosts file it is.
    package init(trusting authority: SSHPublicKey, for principals: [String], patterns: String? = nil, login: SSHLogin) {
        let configuration = login.configuration
        let alias = configuration.hostKeyAlias?.lowercased()
        // ssh looks an alias up without a port.
        let own = principals.map { $0 == alias ? $0 : KnownHosts.name(host: $0, port: configuration.port) }
        names = patterns.map { [$0] } ?? own
        isPattern = patterns != nil
        file = configuration.userKnownHostsFiles.first { $0.lowercased() != "none" }
        text = "@cert-authority \(names.joined(separator: ",")) \(authority.line) bootstrap SSH host CA"
        self.authority = HostKey(blob: authority.blob)
    }

    /// Adds the line, unless the file trusts this CA for these hosts already. What the file holds is not touched.
    ///
    /// - Returns: Whether it was added.
    package func add() throws(SSHConfigurationError) -> Bool {
        guard let file, let authority else { return false }
        return try KnownHostsFile.append(text, to: file) { known in
            isPattern
                ? known.hasAuthority(authority, patterns: names[0])
                : names.allSatisfy { known.authorities(for: $0).contains(authority) }
        }
    }
}

extension KnownHosts {
    /// Whether a `@cert-authority` line has exactly these patterns.
    fileprivate func hasAuthority(_ key: HostKey, patterns: String) -> Bool {
        let wanted = KnownHostsEntry.Hosts.patterns(patterns.split(separator: ",").map { $0.lowercased() })
        return entries.contains { $0.marker == .certificateAuthority && $0.key == key && $0.hosts == wanted }
    }
}
