import ArgumentParser
import Fleet
import Glibc
import MeshDirectory
import MeshIdentity
import MeshNode
import Platform
import SSHSignal
import YAML

/// Where the mesh's directory is.
struct DirectoryOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "A file, or https://HOST:PORT[,https://…]/PREFIX/ of etcd. (default: what $BOOTSTRAP_HOME/config.yaml says)",
            valueName: "PLACE"
        )
    )
    var directory: String?

    @Option(
        help: ArgumentHelp(
            "What is shown to etcd, and who vouches for it: key.pem, cert-chain.pem and root-cert.pem in DIR.",
            valueName: "DIR"
        )
    )
    var credential: String?

    @Option(
        help: ArgumentHelp(
            "Take the directory that this node's, or operator's, configuration names.",
            valueName: "FILE"
        )
    )
    var config: String?

    func validate() throws {
        if directory != nil, config != nil { throw ValidationError("--directory and --config name the same: give one") }
        let isEtcd = directory?.hasPrefix("https://") ?? false
        if isEtcd, credential == nil { throw ValidationError("--directory \(directory ?? "") needs --credential DIR") }
        if !isEtcd, credential != nil {
            throw ValidationError("--credential is for --directory https://…, which is etcd")
        }
    }

    /// - Throws: The exit code; why was printed.
    func settings() throws -> DirectorySettings {
        if let directory { return try Self.settings(directory, credential) }
        do throws(ConfigurationError) {
            if let config { return try Self.settings(inFile: config) }
            if let settings = try OperatorConfiguration.directory() { return settings }
        } catch {
            throw fail("\(error)", .usage)
        }
        throw fail(
            "no directory is named: give --directory PLACE, or write 'directory: {file: …}' or 'directory: {etcd: …}' into "
                + OperatorConfiguration.path,
            .usage
        )
    }

    private static func settings(_ place: String, _ credential: String?) throws -> DirectorySettings {
        guard place.hasPrefix("https://") else { return DirectorySettings(.file(place)) }
        do throws(AddressError) {
            let parts = place.split(separator: ",").map(String.init)
            guard var last = parts.last, let slash = last.dropFirst("https://".count).firstIndex(of: "/") else {
                throw AddressError("--directory \(place): the prefix is missing: https://HOST:PORT/mesh/example.org/")
            }
            let prefix = try EtcdSettings.prefix(String(last[slash...]))
            last = String(last[..<slash])
            var endpoints: [Authority] = []
            for text in parts.dropLast() + [last] { endpoints.append(try EtcdSettings.endpoint(text)) }
            return DirectorySettings(
                .etcd(EtcdSettings(endpoints: endpoints, prefix: prefix, credential: credential ?? ""))
            )
        } catch {
            throw fail("\(error)", .usage)
        }
    }

    private static func settings(inFile path: String) throws(ConfigurationError) -> DirectorySettings {
        if let settings = try OperatorConfiguration.directory(inFile: path, isNodes: true) { return settings }
        throw ConfigurationError(issues: [.init(file: path, position: nil, message: "has no key 'directory'")])
    }
}

/// The operator's settings: `$BOOTSTRAP_HOME/config.yaml`.
enum OperatorConfiguration {
    static var path: String { "\(Home.path)/config.yaml" }

    /// nil: there is no such file, or it names none.
    static func directory() throws(ConfigurationError) -> DirectorySettings? {
        guard access(path, F_OK) == 0 else { return nil }
        return try directory(inFile: path)
    }

    /// Gateways through which all devices may be reached; none where there is no such file, or it names none.
    static func gateways() throws(ConfigurationError) -> [PeerOffer.Gateway] {
        guard access(path, F_OK) == 0 else { return [] }
        let root = try Self.root(ofFile: path)
        let diagnostics = Diagnostics(file: path)
        let node = mapping(root, diagnostics)?["gateways"]
        let gateways = node?.list("'gateways'", diagnostics) { gateway($0, diagnostics) } ?? []
        try diagnostics.throwIfAny()
        return gateways
    }

    private static func gateway(_ node: YAMLNode, _ diagnostics: Diagnostics) -> PeerOffer.Gateway? {
        let what = "an element of 'gateways'"
        guard
            let mapping = MappingDecoder(
                node,
                what: what,
                keys: ["gateway", "identity"],
                required: ["gateway"],
                diagnostics
            ),
            let address = mapping.value("gateway", { try Authority(parsing: $0) })
        else { return nil }
        let id = mapping.value("identity") { try SPIFFEID($0) }
        return PeerOffer.Gateway(address: address, id: id?.description)
    }

    private static func mapping(_ root: YAMLNode, _ diagnostics: Diagnostics) -> MappingDecoder? {
        MappingDecoder(root, what: "the operator's configuration", keys: ["directory", "gateways"], diagnostics)
    }

    private static func root(ofFile file: String) throws(ConfigurationError) -> YAMLNode {
        let bytes: [UInt8]
        do throws(FileError) {
            bytes = try AtomicFile.read(file, limit: YAMLDocument.maximumBytes)
        } catch {
            throw ConfigurationError(issues: [.init(file: file, position: nil, message: error.message)])
        }
        return try YAMLDocument.parse(String(decoding: bytes, as: UTF8.self), file: file)
    }

    /// - Parameter isNodes: It may be a node's configuration as well, whose other keys are none of ours.
    static func directory(inFile file: String, isNodes: Bool = false) throws(ConfigurationError) -> DirectorySettings? {
        let root = try Self.root(ofFile: file)
        let diagnostics = Diagnostics(file: file)
        var node: YAMLNode?
        if isNodes, case .mapping(let entries) = root.content {
            node = entries.first { $0.key == "directory" }?.value
        } else {
            node = mapping(root, diagnostics)?["directory"]
        }
        let directory = AtomicFile.split(file).directory
        let settings = node.flatMap {
            DirectorySettingsDecoder(diagnostics: diagnostics) { path in
                if path.hasPrefix("/") { return path }
                return path.hasPrefix("~/") ? Home.user + path.dropFirst() : "\(directory)/\(path)"
            }.decode($0)
        }
        try diagnostics.throwIfAny()
        return settings
    }
}

extension DirectoryPublication {
    /// Publishes what the ledger says, where the operator's configuration names a directory.
    ///
    /// - Parameters:
    ///   - records: The ledger's.
    ///   - authority: The CA, where it is open.
    ///   - ca: Its directory; nil: the authority's, or the usual one.
    ///   - report: What came of it.
    /// - Returns: Whether the directory says it, or there is none.
    static func publish(
        _ records: DeviceDirectory,
        _ authority: LiveCA?,
        ca: String? = nil,
        _ report: HostReport
    ) async -> Bool {
        do {
            if let news = try await publish(records, authority, ca: ca) { report.say(news) }
            return true
        } catch {
            let passes = (error as? DirectoryError).map { [.unreachable, .conflict].contains($0.code) } ?? false
            report.warn(
                "the mesh's directory does not say so yet: \(error). \(passes ? "The" : "Once that is put right, the") next enroll, renew, "
                    + "revoke or unenroll does it; `bootstrap revoke`, without a name, does nothing else"
            )
            return false
        }
    }

    /// - Returns: What was written, for people; nil: the directory says so already, or there is none.
    static func publish(
        _ records: DeviceDirectory,
        _ authority: LiveCA?,
        ca: String? = nil
    ) async throws -> String? {
        guard let settings = try OperatorConfiguration.directory() else { return nil }
        let publication = DirectoryPublication(
            settings,
            records: records,
            ca: ca ?? authority?.directory ?? Home.ca,
            authority: authority
        )
        guard let revision = try await publication() else { return nil }
        return "\(settings) says so, from revision \(revision) on"
    }
}
