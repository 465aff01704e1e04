package import MeshDirectory
package import MeshIdentity
package import MeshPolicy
package import Platform
import Streams
package import YAML

/// What a directory adds to a node's own configuration, decoded. It holds whole or not at all.
///
/// Made after another one, it decodes the segments that are new (``MeshDirectory/DirectoryOutline``), and keeps the
/// blocks that the others were decoded to.
package struct DirectoryContent: Sendable {
    let blocks: [DirectoryBlock]
    /// Its endpoints, then its devices; the node's own come before them.
    package let table: EndpointTable
    /// Their names begin with `directory/`: nobody takes them for the node's own.
    package let policies: [AuthorizationPolicy]
    /// Of other trust domains.
    package let bundles: [TrustBundle]
    /// Of the own trust domain, in PEM form; nil: the directory says nothing.
    package var revocations: [UInt8]?
    /// As it is written.
    let writtenRevocations: [UInt8]?
    /// Endpoints that need more than a place in the table: a login, TLS of their own, connections that others hold.
    let special: [NodeConfiguration.Endpoint]
    /// How many segments were decoded, and were not there before.
    package let newSegments: Int
    /// Who may have signed ``revocations``.
    private let roots: [Certificate]
    private let trustDomain: TrustDomain
    private let text: [UInt8]

    package static let mostEndpoints = 50_000
    package static let mostPolicies = 10_000
    package static let mostBundles = 256

    /// - Parameters:
    ///   - content: YAML (`docs/directory.md`).
    ///   - file: What it is called in errors.
    ///   - bundle: The roots of the own trust domain.
    /// - Throws: Everything that is wrong with it.
    package init(
        parsing content: [UInt8],
        file: String,
        bundle: TrustBundle
    ) throws(ConfigurationError) {
        guard let text = String(validating: content, as: UTF8.self) else {
            throw ConfigurationError(issues: [.init(file: file, position: nil, message: "is not UTF-8 text")])
        }
        var values = DirectoryBlock.Values()
        if !DirectoryText.isBlank(text) {
            let root = try YAMLDocument.parse(text, file: file)
            let diagnostics = Diagnostics(file: file)
            values = DirectoryContentDecoder(diagnostics: diagnostics, bundle: bundle).decode(root)
            try diagnostics.throwIfAny()
        }
        self.init([DirectoryBlock(values)], text: content, bundle: bundle, newSegments: 1)
    }

    /// - Parameters:
    ///   - document: Verified.
    ///   - file: What it is called in errors.
    ///   - bundle: The roots of the own trust domain.
    ///   - previous: What was decoded before; nil: nothing.
    /// - Throws: Everything that is wrong with it.
    package init(
        _ document: SignedDirectory,
        file: String,
        bundle: TrustBundle,
        after previous: DirectoryContent? = nil
    ) throws(ConfigurationError) {
        if let content = Self(inSegments: document, bundle: bundle, after: previous) {
            self = content
        } else {
            // One that cannot be read in segments may be good all the same; for one that is not, errors name the lines.
            try self.init(parsing: document.content, file: file, bundle: bundle)
        }
    }

    /// Whether both were checked with the same.
    func hasSameRoots(as other: DirectoryContent?) -> Bool {
        other?.roots == roots && other?.trustDomain == trustDomain
    }

    /// nil: something is wrong, or is written so that only the whole can be read.
    private init?(inSegments document: SignedDirectory, bundle: TrustBundle, after previous: DirectoryContent?) {
        // What a list of revocations was checked with, and devices.
        let previous = previous?.roots == bundle.roots && previous?.trustDomain == bundle.trustDomain ? previous : nil
        var known: [DirectoryOutline.Segment: DirectoryBlock] = [:]
        for block in previous?.blocks ?? [] where block.segment != nil { known[block.segment!] = block }
        guard let outline = DirectoryOutline(document, known: known.keys) else { return nil }
        var blocks: [DirectoryBlock] = []
        var newSegments = 0
        for place in outline.places {
            if let block = known[place.segment] {
                blocks.append(block)
                continue
            }
            newSegments += 1
            let text = document.content[place.range]
            guard let values = DirectoryContentDecoder.values(of: place.segment, text, bundle: bundle) else {
                return nil
            }
            blocks.append(DirectoryBlock(values, of: place.segment))
        }
        self.init(blocks, text: document.content, bundle: bundle, newSegments: newSegments, after: previous)
        guard Self.mistakes(blocks, table: table, policies: policies, bundles: bundles).isEmpty else { return nil }
    }

    private init(
        _ blocks: [DirectoryBlock],
        text: [UInt8],
        bundle: TrustBundle,
        newSegments: Int,
        after previous: DirectoryContent? = nil
    ) {
        self.blocks = blocks
        self.text = text
        self.newSegments = newSegments
        (roots, trustDomain) = (bundle.roots, bundle.trustDomain)
        let tables = blocks.compactMap(\.endpoints) + blocks.compactMap(\.devices)
        table = EndpointTable(tables, after: previous?.table ?? EndpointTable())
        special = blocks.flatMap(\.special)
        bundles = blocks.flatMap(\.bundles)
        writtenRevocations = blocks.lazy.compactMap(\.revocations).first
        revocations = writtenRevocations
        // The same array, so that whoever has made something of it sees that it is.
        let writers = blocks.filter { !$0.policies.isEmpty }
        if let previous, previous.blocks.filter({ !$0.policies.isEmpty }).elementsEqual(writers, by: ===) {
            policies = previous.policies
        } else {
            let policies = writers.flatMap(\.policies)
            self.policies = previous.flatMap { $0.policies == policies ? $0.policies : nil } ?? policies
        }
    }

    /// What segments cannot know of each other.
    private static func mistakes(
        _ blocks: [DirectoryBlock],
        table: EndpointTable,
        policies: [AuthorizationPolicy],
        bundles: [TrustBundle]
    ) -> [String] {
        var mistakes: [String] = []
        if table.repeated != nil { mistakes.append("a destination is there twice") }
        if Set(policies.map(\.name)).count != policies.count { mistakes.append("a policy is there twice") }
        var elements: [String: Int] = [:]
        for block in blocks {
            for (section, count) in block.elements { elements[section, default: 0] += count }
        }
        if elements.values.contains(0) { mistakes.append("a list is empty") }
        if table.count > mostEndpoints || policies.count > mostPolicies || bundles.count > mostBundles {
            mistakes.append("there is too much")
        }
        return mistakes
    }

    package var endpointCount: Int { table.count }

    /// Endpoints whose peer is of a trust domain that nobody vouches for in there: a node that has no `trust` of its
    /// own for it never believes that peer. Told where the content is written.
    ///
    /// - Parameters:
    ///   - content: What ``init(parsing:file:bundle:)`` takes.
    ///   - file: What it is called.
    ///   - bundle: The roots of the own trust domain.
    package static func strangers(in content: [UInt8], file: String, bundle: TrustBundle) -> [String] {
        guard let text = String(validating: content, as: UTF8.self), !DirectoryText.isBlank(text),
            let root = try? YAMLDocument.parse(text, file: file)
        else { return [] }
        let own = bundle.trustDomain
        let values = DirectoryContentDecoder(diagnostics: Diagnostics(file: file), bundle: bundle).decode(root)
        let known = Set([own] + values.bundles.map(\.trustDomain))
        return values.endpoints.flatMap { endpoint in
            endpoint.identities.filter { !known.contains($0.trustDomain) }.map { identity in
                "\(endpoint.position.map { "\(file):\($0)" } ?? file): endpoint '\(endpoint.match)': its peer is to be \(identity), and "
                    + "nobody here vouches for \(identity.trustDomain): the mesh's own trust domain is \(own). Correct the identity, or "
                    + "add \(identity.trustDomain) to 'bundles'; nodes that have it in 'trust' of their own reach it all the same"
            }
        }
    }

    /// In order; the node's own come before them. Put together for whoever asks.
    package var endpoints: [NodeConfiguration.Endpoint] {
        blocks.flatMap(\.writtenEndpoints) + blocks.flatMap(\.writtenDevices)
    }

    /// What leads to `peer`; nil: nothing does.
    func endpoint(to peer: PeerID) -> NodeConfiguration.Endpoint? {
        table.endpoint(to: peer).flatMap { endpoint(number: $0.number) }
    }

    /// - Parameter number: Its place in ``endpoints``.
    func endpoint(number: Int) -> NodeConfiguration.Endpoint? {
        var rest = number
        for block in blocks {
            if rest < block.writtenEndpoints.count { return block.writtenEndpoints[rest] }
            rest -= block.writtenEndpoints.count
        }
        for block in blocks {
            guard let devices = block.devices?.endpoints else { continue }
            if rest < devices.count { return DirectoryBlock.device(devices[rest]) }
            rest -= devices.count
        }
        return nil
    }

    /// As it is written; nil: there is nothing. Read again for whoever asks, which is people.
    package var document: YAMLNode? {
        let text = String(decoding: text, as: UTF8.self)
        return DirectoryText.isBlank(text) ? nil : try? YAMLDocument.parse(text, file: "the directory")
    }

    /// Whether the same are trusted by both, and the same certificates revoked.
    static func haveSameTrust(_ left: DirectoryContent?, _ right: DirectoryContent?) -> Bool {
        left?.revocations == right?.revocations
            && (left?.bundles ?? []).elementsEqual(right?.bundles ?? []) {
                $0.trustDomain == $1.trustDomain && $0.roots == $1.roots
            }
    }
}
