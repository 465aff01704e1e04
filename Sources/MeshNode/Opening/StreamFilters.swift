import H2Transport
public import MeshIdentity
import MeshPolicy
public import Platform
public import Streams

/// What a node knows of a stream when a filter is chosen for it: who asks, by which listener, for what, and which way
/// it has gone. What of this a client has merely said is said with it.
public struct StreamFacts: Hashable, Sendable {
    /// Who has asked for a stream.
    public enum Client: Hashable, Sendable {
        /// A member of the mesh, who has proved it by its certificate.
        case peer(SPIFFEID)
        /// A user of a listener for local programs.
        case localUser
        /// Anybody, at an ingress.
        case unauthenticated
    }

    /// What leads to the destination.
    public enum Way: Hashable, Sendable {
        /// Dialled from here; nil where what was dialled has no address.
        case dialled(SocketAddress?)
        /// Through another node; nil where the path proves no identity (SSH).
        case peer(SPIFFEID?)
    }

    /// The name of the listener in the configuration. Streams that came over HBONE have `hbone` where there are several
    /// listeners for them: one connection has many streams.
    public let listener: String
    /// What is spoken there, as the configuration has it: `tcp`, `https`, `hbone`.
    public let listenerProtocol: String
    /// Who has asked for it.
    public let client: Client
    /// Where from.
    public let clientAddress: IPAddress
    /// What was asked for.
    public let destination: Authority
    /// Which way it has gone.
    public let way: Way
    /// Of the first request, where the listener reads HTTP. A connection to a server may have more requests after it.
    public let method: String?
    /// Likewise: without the query, and nil where it has no one meaning.
    public let path: String?
    /// `ISSUER/SUBJECT` of the verified token of the first request, where the listener asks for one.
    public let requestPrincipal: String?
}

/// Chooses the filter of a stream, on the stream's event loop, when the stream is open and nothing was carried yet.
/// nil: none. Must not wait for anything.
public typealias StreamFilterChoice = @Sendable (StreamFacts, EventLoop) -> (any StreamFilter)?

/// Puts filters between clients and destinations, for the streams whose plaintext this node is allowed to see. Confined
/// to its loop.
final class StreamFilters {
    private let choose: StreamFilterChoice
    private let loop: EventLoop
    init(_ choose: @escaping StreamFilterChoice, on loop: EventLoop) {
        self.choose = choose
        self.loop = loop
    }

    /// What stands between client and destination; nil: nothing.
    func stream(for request: StreamRequest, _ opened: StreamOpener.Opened, at front: FrontName) -> FilteredStream? {
        // What passes through there is TLS between others.
        guard front.protocol != NodeConfiguration.ListenerProtocol.sni.rawValue else { return nil }
        let facts = StreamFacts(request, opened, at: front)
        return choose(facts, loop).map { FilteredStream(opened.stream, $0) }
    }
}

extension StreamFacts {
    fileprivate init(_ request: StreamRequest, _ opened: StreamOpener.Opened, at front: FrontName) {
        listener = front.listener
        listenerProtocol = front.protocol
        client =
            switch request.source {
            case .peer(let peer): .peer(peer)
            case .localUser: .localUser
            case .unauthenticated: .unauthenticated
            }
        clientAddress = request.sourceIP
        destination = request.destination
        way = opened.path == nil ? .dialled(opened.dialled) : .peer(opened.peer)
        method = request.details?.method
        path = request.details?.path
        requestPrincipal = request.details?.principal
    }
}

extension FilteredStream {
    /// What the filter has ended, neither client nor destination has.
    func correct(_ result: inout RelayResult) {
        guard let endedByFilter else { return }
        (result.failure, result.endedBy) = (endedByFilter, .owner)
    }
}
