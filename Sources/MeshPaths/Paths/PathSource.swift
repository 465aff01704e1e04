import H2Transport
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// Where the connections of one ``MeshPolicy/PathCandidate`` come from: it dials, or waits until the peer has dialled.
/// Confined to its event loop.
///
/// ```
///   idle ── establish ──→ dialling, or waiting for the peer ──→ up ── lost, let go by the peer ──→ idle
///    ↑                            │ failed: down                 │ down, rest      release, reset: back to idle
///    └────────────────────────────┴───────────────────────────────┘
/// ```
///
/// ``PathSelector`` says when which one is wanted; ``PeerPaths`` asks it for streams while it is up. A new kind of way
/// is a new implementation, and nothing else.
protocol PathSource: AnyObject {
    /// What became of ``establish()``, and of the path later. Set once, before it.
    var events: PathEvents { get set }
    /// Who the peer proved to be, last; nil where the path has no mesh identity, or its servers have several.
    var peer: SPIFFEID? { get }
    /// Streams that are open or being opened.
    var streamCount: Int { get }
    /// The shortest that was seen; nil where none was.
    var roundTripTime: Duration? { get }
    /// Those among which it chooses; empty where there is no choice.
    var servers: [ServerReport] { get }

    /// Somebody waits for a stream with these headers: what is established next is established for it.
    func expect(_ headers: HeaderFields)
    /// Makes the path usable, or begins to wait until it is; answers by ``events``. Does nothing while that is under
    /// way.
    func establish()
    /// Opens a stream that ends at `authority`. `completion` is called once, on the loop.
    ///
    /// - Parameter headers: For the CONNECT request; plain SSH carries none.
    func open(
        to authority: Authority,
        headers: HeaderFields,
        completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    )
    /// The same for a stream that goes on: where it is.
    func resume(
        to authority: Authority,
        headers: HeaderFields,
        at place: ResumptionPlace,
        completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    )
    /// Whether all that leads to `authority` now leads to another process than the one that has the stream at `place`.
    func isElsewhere(_ place: ResumptionPlace, from authority: Authority) -> Bool
    /// Addresses or routes of this machine are others: connections are asked at once whether they still live, and no
    /// attempt waits for a pause to end.
    func networkChanged(_ change: NetworkChange)
    /// Which of several servers a connection leads to; nil where there is no choice.
    func server(of connection: H2Connection?) -> Authority?
    /// New connections show the credential of `context`; established ones keep theirs.
    func use(_ context: TLSContext, _ settings: ConnectionSettings)
    /// Lets an idle path's connections go; ``establish()`` makes others.
    func release()
    /// Drops everything, open streams included; ``establish()`` begins anew.
    func reset()
    /// The same, because the peer did not prove who it is; but streams go on over a connection whose certificates were
    /// good when it was made, and have ended since: that says nothing of these streams.
    ///
    /// - Returns: Whether there are such streams.
    func distrust() -> Bool
}

extension PathSource {
    var roundTripTime: Duration? { nil }
    var servers: [ServerReport] { [] }
    func expect(_ headers: HeaderFields) {}
    func isElsewhere(_ place: ResumptionPlace, from authority: Authority) -> Bool { false }
    func networkChanged(_ change: NetworkChange) {}
    func server(of connection: H2Connection?) -> Authority? { nil }

    func distrust() -> Bool {
        reset()
        return false
    }

    /// Where there is no choice, nobody knows whether this way leads to one of several servers of another one.
    func resume(
        to authority: Authority,
        headers: HeaderFields,
        at place: ResumptionPlace,
        completion: @escaping (Result<ByteStream, PathFailure>) -> Void
    ) {
        guard place.server == nil else { return refuse(place, completion) }
        if isElsewhere(place, from: authority) { return completion(.failure(.refused(.streamIsElsewhere))) }
        open(to: authority, headers: headers, completion: completion)
    }

    /// The stream is at a server to which this path does not lead for certain.
    func refuse(_ place: ResumptionPlace, _ completion: @escaping (Result<ByteStream, PathFailure>) -> Void) {
        let server = place.server?.description ?? "that server"
        completion(.failure(.pathLost(StreamError(.unreachable, "this path does not lead to \(server) for certain"))))
    }
}

/// Where a stream is that goes on.
struct ResumptionPlace {
    /// Of several servers, the one that has it; nil where there is no choice.
    var server: Authority?
    /// Whose stream it is: nobody else is asked for it. nil: no certificate has said so.
    var identity: SPIFFEID?
    /// That the node at its other end showed last; nil: it is not known.
    var certificate: CertificateName?
    /// Which process of that node has it; 0: it has not said.
    var process: UInt32 = 0

    /// Whether a connection leads to a process that cannot have the stream.
    ///
    /// - Parameter other: What the connection's peer says of which process it is; 0: nothing.
    func isElsewhere(than other: UInt32) -> Bool { NodeProcess.isAnother(other, than: process) }
}

extension StreamError {
    /// As a node says that is asked for a stream that it does not have.
    static var streamIsElsewhere: StreamError {
        StreamError(.badRequest, "another process has taken the node's place, which does not have the stream")
    }
}

/// What a ``PathSource`` tells.
struct PathEvents {
    /// The path can carry streams: its real handshake has been made.
    var up: () -> Void = {}
    /// It could not be established, or was lost. With it, whether streams were open on it, or somebody waited.
    var down: (StreamError, Bool) -> Void = { _, _ in }
    /// The peer let go of it while nobody used it: ``PathSource/establish()`` brings it back when somebody does.
    var rest: () -> Void = {}
    /// No stream has used it for the idle timeout.
    var idle: () -> Void = {}
}
